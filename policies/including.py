"""A policy with its included files: read part by part, then one file whose every place still says in which part it stands."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from config.yamlbundle import parts_of
from config.yamlfile import Document, Path, Problem, Schema, read_yaml
from policies.schema import IncludedFile, Name, PolicyFile, yaml_schema

_TABLES = ("backends", "embedders", "tenants")
_LISTS = ("rules", "cases")


class _Include(Struct, frozen=True):
    """Of a policy file, only what it includes."""

    include: tuple[Name, ...] = ()


def included_names(text: str) -> tuple[str, ...]:
    """The files that a policy's text includes; none where that cannot be read, which whoever reads all of it will say."""
    document = read_yaml(parts_of(text)[0], _Include, schema=Schema(partial=frozenset({_Include})))
    return () if document.value is None else document.value.include


def read_policy(text: str) -> tuple[PolicyFile, Document[PolicyFile]]:
    """The whole file, and the document with the problems and places of all its parts; its `value` is None where there is any problem.

    Sections without a problem are there even when another has one: a person should see all of it at once. Rules and cases of included files follow
    the file's own, in the order in which they are included. No file is read here: what is included stands in the text.
    """
    main, parts = parts_of(text)
    document = read_yaml(main, PolicyFile, schema=yaml_schema())
    file = document.value or msgspec.structs.replace(PolicyFile(version=1), **document.sections)
    for index, name in enumerate(file.include):
        place: Path = ("include", index)
        if name in file.include[:index]:
            document.problems.append(document.places.problem(place, f"{name!r} is included twice"))
        elif name not in parts:
            message = f"{name!r} cannot be read: it must be a file, in UTF-8, at that place from this file's folder; a policy sent over the API brings no files"
            document.problems.append(document.places.problem(place, message))
        else:
            file = _with(file, document, name, parts[name])
    for name in parts.keys() - set(file.include):
        document.problems.append(Problem(1, 1, path="", message="this part is not included: name it under 'include'", file=name))
    if document.problems:
        document.value = None
    elif document.value is not None:
        document.value = file
    return file, document


def _with(file: PolicyFile, document: Document[PolicyFile], name: str, text: str) -> PolicyFile:
    """The file with an included one in it."""
    part = read_yaml(text, IncludedFile, schema=yaml_schema())
    found = part.value or msgspec.structs.replace(IncludedFile(), **part.sections)
    document.problems += [msgspec.structs.replace(problem, file=name) for problem in part.problems]
    before = {section: len(getattr(file, section)) for section in _LISTS}
    merged: dict[str, object] = {section: (*getattr(file, section), *getattr(found, section)) for section in _LISTS}
    for section in _TABLES:
        own, theirs = getattr(file, section), getattr(found, section)
        for key in theirs.keys() & own.keys():
            problem = part.places.problem((section, key), f"{key!r} stands in another file of this policy too", key=True)
            document.problems.append(msgspec.structs.replace(problem, file=name))
        merged[section] = {**theirs, **own}

    def moved(path: Path) -> Path:
        section, *rest = path
        if section in before and rest and isinstance(rest[0], int):
            return (section, rest[0] + before[str(section)], *rest[1:])
        return path

    document.places.adopt(part.places, name, moved)
    return msgspec.structs.replace(file, **merged)
