from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from config.secretfile import Secret, admin_key, load_secret
from config.settings import Settings, SettingsError, import_plugins, load_env, load_settings
from config.weakness import weakness
from config.yamlfile import YamlError


def test_without_anything_the_defaults_hold() -> None:
    settings = load_settings({})
    assert settings == Settings()
    assert (settings.host, settings.port, settings.workers) == ("127.0.0.1", 8080, 1)
    assert settings.database == "sqlite:///var/headgate.db"


def test_the_environment_goes_before_the_file() -> None:
    text = "version: 1\nsettings: {port: 9000, host: 0.0.0.0, workers: 3}\nrules: whatever\n"
    settings = load_settings({"HEADGATE_PORT": "9001", "HEADGATE_HOME": "/srv/hg", "DATABASE_URL": "postgresql://u@h/d"}, text)
    assert (settings.port, settings.host, settings.workers) == (9001, "0.0.0.0", 3)
    assert settings.home == Path("/srv/hg")
    assert settings.database == "postgresql://u@h/d"


def test_every_field_can_be_set_by_a_variable_of_its_name() -> None:
    environ = {
        "HEADGATE_HOME": "/x",
        "HEADGATE_HOST": "::",
        "HEADGATE_PORT": "0",
        "HEADGATE_WORKERS": "2",
        "HEADGATE_DATABASE_URL": "sqlite:////tmp/x.db",
        "HEADGATE_DURABILITY": "full",
        "HEADGATE_REDIS_URL": "redis://cache.internal:6379/0",
        "HEADGATE_LIMITS_WHEN_AWAY": "refuse",
        "HEADGATE_AUTO_MIGRATE": "true",
        "HEADGATE_LEDGER_MONTHS": "18",
        "HEADGATE_PLUGINS": "a.py, package.module",
        "HEADGATE_EMBEDDER_MODEL": "123",
        "HEADGATE_ALLOW_PRIVATE_BACKENDS": "yes",
        "HEADGATE_COMMIT_AFTER_S": "1.5",
        "HEADGATE_HEARTBEAT_S": "3",
        "HEADGATE_SHUTDOWN_S": "4",
        "HEADGATE_MAX_BODY_MB": "5",
        "HEADGATE_UPLOAD_MAX_MB": "6",
        "HEADGATE_IDEMPOTENCY_S": "7",
        "HEADGATE_TOOL_MEMORY_S": "0",
        "HEADGATE_RETENTION_S": "8.5",
        "HEADGATE_TRUSTED_PROXIES": "10.0.0.0/8, ::1",
        "HEADGATE_DECISIONS_DAYS": "9",
        "HEADGATE_AUTH_FAILURES_PER_MINUTE": "9",
    }
    values = load_env(environ)
    assert set(values) == set(Settings.__struct_fields__)
    assert values["plugins"] == ("a.py", "package.module")
    assert values["trusted_proxies"] == ("10.0.0.0/8", "::1")
    assert values["embedder_model"] == "123"
    assert values["allow_private_backends"] is True
    assert load_settings(environ).database == "sqlite:////tmp/x.db"


def test_an_empty_variable_counts_as_absent() -> None:
    assert load_settings({"HEADGATE_PORT": "", "DATABASE_URL": ""}) == Settings()


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("HEADGATE_PORT", "x", "HEADGATE_PORT: expected a whole number, found 'x'"),
        ("HEADGATE_PORT", "70000", "HEADGATE_PORT: must be at most 65535, found 70000"),
        ("HEADGATE_PORT", "tcp://10.0.0.1:80", "enableServiceLinks: false"),
        ("HEADGATE_WORKERS", "0", "HEADGATE_WORKERS: must be at least 1, found 0"),
        ("HEADGATE_DURABILITY", "ful", "HEADGATE_DURABILITY: expected one of normal, full; found 'ful'"),
        ("HEADGATE_WORKER", "2", "HEADGATE_WORKER: no such setting; did you mean HEADGATE_WORKERS?"),
        ("HEADGATE_HEARTBEET_S", "2", "did you mean HEADGATE_HEARTBEAT_S?"),
        ("HEADGATE_COMMIT_AFTER_S", "0", "must be more than 0"),
        ("DATABASE_URL", "mysql://u:hidden@h/d", "DATABASE_URL: 'mysql' is not supported"),
        ("HEADGATE_TRUSTED_PROXIES", "10.0.0.0/8,proxy", "HEADGATE_TRUSTED_PROXIES: 'proxy' is not a range of addresses"),
        ("HEADGATE_TRUSTED_PROXIES", "10.0.0.1/8", "did you mean 10.0.0.0/8?"),
        ("DATABASE_URL", "postgres://u:hidden@h/d", "did you mean postgresql://?"),
    ],
)
def test_a_bad_variable_is_named(variable: str, value: str, message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings({variable: value})
    assert message in str(caught.value)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "variable",
    ["HEADGATE_API_KEY", "HEADGATE_KEY", "HEADGATE_URL", "HEADGATE_SERVICE_HOST", "HEADGATE_SERVICE_PORT", "HEADGATE_PORT_8080_TCP", "HEADGATE_TEST"],
)
def test_variables_of_clients_and_of_kubernetes_are_left_alone(variable: str) -> None:
    assert load_settings({variable: "anything"}) == Settings()


def test_a_mistake_in_the_file_has_line_and_column() -> None:
    with pytest.raises(YamlError, match=r"^p\.yaml:3:3: settings\.prot: unknown key 'prot'; did you mean 'port'\?$"):
        load_settings({}, "version: 1\nsettings:\n  prot: 1\n", "p.yaml")


def test_a_plugin_named_in_the_file_is_found_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "extra_backend.py").write_text("LOADED = []\nLOADED.append(1)\n")
    settings = load_settings({}, "settings: {plugins: [extra_backend.py, string]}", str(tmp_path / "policy.yaml"))
    assert settings.plugins == (str(tmp_path / "extra_backend.py"), "string")
    import_plugins(settings.plugins)
    import_plugins(settings.plugins)
    (module,) = [module for name, module in sys.modules.items() if name.startswith("headgate_plugin_extra_backend_")]
    assert module.LOADED == [1]


@pytest.mark.parametrize("plugin", ["missing.py", "no_such_module_anywhere"])
def test_a_missing_plugin_is_an_error_that_names_it(plugin: str) -> None:
    with pytest.raises(SettingsError, match=plugin):
        import_plugins([plugin])


def test_a_plugin_that_fails_raises_its_own_error_every_time(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("1 / 0\n")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            import_plugins([str(tmp_path / "broken.py")])


def test_no_repr_shows_the_password_of_redis() -> None:
    settings = load_settings({"REDIS_URL": "redis://user:hunter22@cache.internal:6379/0"})
    assert settings.redis_url == "redis://user:hunter22@cache.internal:6379/0"
    assert "hunter22" not in repr(settings)
    assert "redis://user:***@cache.internal" in repr(settings)


def test_a_redis_url_of_another_kind_is_refused_by_the_variable_that_gave_it() -> None:
    with pytest.raises(SettingsError, match=r"^REDIS_URL: 'http' is not supported; use redis://"):
        load_settings({"REDIS_URL": "http://cache.internal"})


@pytest.mark.parametrize(
    "url", ["postgresql://user:hunter22@host/db", "postgresql://user:hunter22:x@host/db", "postgresql://host/db?user=u&password=hunter22&a=b"]
)
def test_no_repr_shows_a_password(url: str) -> None:
    settings = load_settings({"DATABASE_URL": url})
    assert "hunter22" not in repr(settings)
    assert "hunter22" not in str(settings)
    assert "hunter22" not in f"{settings.__rich_repr__()}"
    assert "host/db" in repr(settings)
    assert settings.database == url


@pytest.mark.parametrize(
    "value",
    [
        "changeme",
        "admin",
        "sk-1234",
        "short",
        "aaaaaaaaaaaaaaaaaaaaaaaa",
        "abcabcabcabcabcabc",
        "0123456789012345",
        "changeme-changeme",
        "change-me-please-now",
        "sk-1234567890123456",
        "password12345678",
        "hg-changeme-changeme",
        "supersecretpassword",
        "your-secret-key-here",
        "headgate-admin-key",
        "abcdefghijklmnopqr",
        " r4nd0m-l00k1ng-v4lue ",
    ],
)
def test_a_weak_admin_key_is_refused_without_repeating_it(value: str) -> None:
    with pytest.raises(SettingsError, match="HEADGATE_ADMIN_KEY is refused") as caught:
        admin_key({"HEADGATE_ADMIN_KEY": value})
    assert value not in str(caught.value)


@given(st.binary(min_size=16, max_size=32))
def test_a_random_key_of_thirty_two_hex_digits_is_never_refused(value: bytes) -> None:
    digits = __import__("hashlib").sha256(value).hexdigest()[:32]
    assert weakness(digits) is None


@pytest.mark.parametrize("networks", ["10.0.0.0/33", "proxy.internal", "10.0.0.1/8"])
def test_a_trusted_proxy_that_is_no_range_is_refused_wherever_it_is_given(networks: str) -> None:
    with pytest.raises(SettingsError, match="HEADGATE_TRUSTED_PROXIES"):
        load_settings({"HEADGATE_TRUSTED_PROXIES": networks})
    with pytest.raises(SettingsError, match=r"settings\.trusted_proxies: .*10\.0\.0\.0/8"):
        load_settings({}, f"version: 1\nsettings: {{trusted_proxies: ['{networks}']}}\n")


def test_no_admin_key_is_no_error() -> None:
    assert admin_key({}) is None


def test_a_secret_shows_itself_to_reveal_only() -> None:
    secret = Secret("correct-horse-battery")
    assert secret.reveal() == "correct-horse-battery"
    assert "horse" not in f"{secret} {secret!r} {[secret]}"
    assert secret == Secret("correct-horse-battery")
    assert secret != Secret("correct-horse-batterz")


def test_the_secret_of_the_environment_needs_no_file(tmp_path: Path) -> None:
    assert load_secret({"HEADGATE_SECRET": "a-good-long-secret-7261"}, tmp_path / "none") == Secret("a-good-long-secret-7261")
    assert not (tmp_path / "none").exists()


def test_the_secret_file_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    home = tmp_path / "deep" / "home"
    first = load_secret({}, home)
    assert load_secret({}, home) == first
    assert (home / "secret").stat().st_mode & 0o777 == 0o600
    assert [path.name for path in home.iterdir()] == ["secret"]
    assert len(first.reveal()) == 64


def test_starters_that_race_agree_on_one_secret(tmp_path: Path) -> None:
    for round_number in range(10):
        home = tmp_path / str(round_number)
        barrier = threading.Barrier(8)
        found: list[str] = []

        def start(home: Path = home, barrier: threading.Barrier = barrier, found: list[str] = found) -> None:
            barrier.wait()
            found.append(load_secret({}, home).reveal())

        threads = [threading.Thread(target=start) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8
        assert len(set(found)) == 1
        assert [path.name for path in home.iterdir()] == ["secret"]


def test_a_secret_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    load_secret({}, tmp_path)
    (tmp_path / "secret").chmod(0o644)
    with pytest.raises(SettingsError, match="chmod 600"):
        load_secret({}, tmp_path)


def test_an_emptied_secret_file_is_refused_and_not_replaced(tmp_path: Path) -> None:
    load_secret({}, tmp_path)
    (tmp_path / "secret").write_text("")
    with pytest.raises(SettingsError, match="restore it"):
        load_secret({}, tmp_path)
    assert (tmp_path / "secret").read_text() == ""


def test_a_home_that_cannot_be_written_is_an_error_that_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="HEADGATE_SECRET"):
        load_secret({}, tmp_path / "file" / "home")
