"""Two pages for people, each whole in itself (nothing is loaded from anywhere else): `/`, and `/docs`, which shows the OpenAPI document."""

from __future__ import annotations

from litestar import Response, get

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8881 }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem }
code, pre { font: 14px/1.5 ui-monospace, monospace } pre { background: var(--soft); padding: 1rem; overflow-x: auto }
details { border: 1px solid var(--line); border-radius: 6px; margin: .4rem 0; padding: .3rem .8rem } summary { cursor: pointer }
summary code { font-weight: 600 } summary span { opacity: .75; margin-left: .8rem }
.method { display: inline-block; min-width: 4rem } ul.schema { list-style: none; margin: 0; padding-left: 1.2rem; border-left: 2px solid var(--line) }
.type { opacity: .7 } .lock { float: right; opacity: .6 }
"""

_LANDING = """
<h1>Headgate</h1>
<p>This is an LLM routing service. It answers OpenAI's chat requests on <code>/v1</code>.</p>
<ul>
<li><a href="/docs">API reference</a> (<a href="/schema/openapi.json">OpenAPI document</a>)</li>
<li><a href="/health">Health</a>: the backends, and which are ready</li>
</ul>
<h2>A key</h2>
<p>Every request needs one. The first start prints an admin key and a chat key on its terminal. Whoever runs the service makes more:</p>
<pre>headgate tenants create acme
headgate keys create --tenant acme --role member</pre>
<h2>A first request</h2>
<pre>curl $HEADGATE_URL/v1/chat/completions -H "authorization: Bearer $HEADGATE_KEY" -H "content-type: application/json" \\
  -d '{"model": "auto", "messages": [{"role": "user", "content": "Hello"}]}'</pre>
"""

_REFERENCE = """
<h1>Headgate API</h1>
<p><a href="/">Start</a> · <a href="/schema/openapi.json">OpenAPI document</a> · send a key as <code>Authorization: Bearer hg-…</code> where 🔑 stands.</p>
<main id="reference">Loading…</main>
<noscript>This page needs JavaScript; the document itself is at <a href="/schema/openapi.json">/schema/openapi.json</a>.</noscript>
"""

_SCRIPT = """
const make = (tag, parent, text, name) => {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (name) node.className = name;
  parent.append(node);
  return node;
};
const open = (schema, components) => schema && schema.$ref ? components[schema.$ref.split('/').pop()] : schema || {};
const nameOf = (schema, components) => {
  if (!schema) return '';
  if (schema.$ref) return schema.$ref.split('/').pop();
  if ('const' in schema) return JSON.stringify(schema.const);
  if (schema.enum) return schema.enum.map(value => JSON.stringify(value)).join(' | ');
  const parts = schema.anyOf || schema.oneOf;
  if (parts) return parts.map(part => nameOf(part, components)).join(' | ');
  if (schema.type === 'array') return nameOf(schema.items, components) + '[]';
  return [].concat(schema.type || 'any').join(' | ');
};
const fields = (schema, components, parent, seen) => {
  const found = open(schema, components);
  for (const part of found.anyOf || found.oneOf || []) fields(part, components, parent, seen);
  if (found.items) fields(found.items, components, parent, seen);
  if (!found.properties || (schema.$ref && seen.includes(schema.$ref))) return;
  const list = make('ul', parent, undefined, 'schema');
  if (schema.$ref && seen.length) make('li', list, schema.$ref.split('/').pop(), 'type');
  for (const [name, property] of Object.entries(found.properties)) {
    const item = make('li', list);
    make('code', item, name);
    const must = (found.required || []).includes(name) ? ', required' : '';
    const usual = 'default' in property && property.default !== null ? ', default ' + JSON.stringify(property.default) : '';
    make('span', item, ' ' + nameOf(property, components) + must + usual, 'type');
    if (property.description) make('div', item, property.description);
    fields(property, components, item, seen.concat(schema.$ref || []));
  }
};
const show = (document_, root) => {
  const components = document_.components.schemas;
  const groups = new Map();
  for (const [path, item] of Object.entries(document_.paths))
    for (const [method, operation] of Object.entries(item)) {
      const tag = (operation.tags || ['other'])[0];
      groups.set(tag, [...(groups.get(tag) || []), [method, path, operation]]);
    }
  root.textContent = '';
  for (const [tag, operations] of groups) {
    make('h2', root, tag);
    for (const [method, path, operation] of operations) {
      const details = make('details', root), summary = make('summary', details);
      if ((operation.security || []).length) make('span', summary, '🔑', 'lock');
      make('code', summary, method.toUpperCase(), 'method');
      make('code', summary, path);
      make('span', summary, operation.summary || '');
      if (operation.description) make('p', details, operation.description);
      for (const parameter of operation.parameters || []) {
        const must = parameter.required ? ', required' : '';
        make('p', details, parameter.in + ' parameter ' + parameter.name + ': ' + nameOf(parameter.schema, components) + must);
      }
      for (const [type, body] of Object.entries((operation.requestBody || {}).content || {})) {
        make('h4', details, 'Body: ' + type);
        if (body.schema.description) make('p', details, body.schema.description);
        fields(body.schema, components, details, []);
      }
      for (const [status, response] of Object.entries(operation.responses || {})) {
        if (response.$ref) {
          make('p', details, status + ': ' + open(response, document_.components.responses).description, 'type');
          continue;
        }
        make('h4', details, 'Answer ' + status);
        make('p', details, response.description || '');
        for (const [type, body] of Object.entries(response.content || {})) {
          make('div', details, type + ': ' + nameOf(body.schema, components), 'type');
          fields(body.schema, components, details, []);
        }
      }
    }
  }
};
const root = document.getElementById('reference');
fetch('/schema/openapi.json').then(answer => answer.json()).then(found => show(found, root))
  .catch(error => { root.textContent = 'The document could not be loaded: ' + error; });
"""

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; base-uri 'none'; frame-ancestors 'none'"
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
}


def _page(title: str, body: str, script: str = "") -> Response[str]:
    head = f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    text = f"{head}<style>{_STYLE}</style></head><body>{body}{f'<script>{script}</script>' if script else ''}</body></html>"
    return Response(text, media_type="text/html", headers=_HEADERS)


@get("/", include_in_schema=False)
async def landing() -> Response[str]:
    """What this is, and where to go."""
    return _page("Headgate", _LANDING)


@get("/docs", include_in_schema=False)
async def reference() -> Response[str]:
    """The API reference. Opens without a key."""
    return _page("Headgate API", _REFERENCE, _SCRIPT)
