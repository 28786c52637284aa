// An editor that opens definition files: it speaks to the YAML language server over stdio, asks for completions at a cursor
// (`|` in the text) and compares diagnostics by line and column. Arguments: the server, and a directory with definition
// files and their schemas. The names that must be offered are read out of the schema.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';

const [program, directory] = process.argv.slice(2);
const server = spawn(program, ['--stdio'], { stdio: ['pipe', 'pipe', 'inherit'] });

// The framing of the protocol: a header with the length in bytes, then JSON.
const pending = new Map();
const diagnostics = new Map();
let received = Buffer.alloc(0);
let sent = 0;
function send(message) {
  const body = JSON.stringify({ jsonrpc: '2.0', ...message });
  server.stdin.write(`Content-Length: ${Buffer.byteLength(body)}\r\n\r\n${body}`);
}
function request(method, params) {
  sent += 1;
  send({ id: sent, method, params });
  return new Promise((resolve, reject) => pending.set(sent, { resolve, reject }));
}
const settings = {
  yaml: {
    completion: true, validate: true, hover: true, schemaStore: { enable: false }, kubernetesCRDStore: { enable: false },
  },
};
function handle(message) {
  if (message.method && message.id !== undefined) {
    // The server asks for its settings, and for what the schema of a file is. The file says that itself.
    const result = message.method === 'workspace/configuration'
      ? message.params.items.map(({ section }) => settings[section] ?? {}) : null;
    send({ id: message.id, result });
  } else if (message.method === 'textDocument/publishDiagnostics') {
    diagnostics.get(message.params.uri)?.(message.params.diagnostics);
  } else if (message.id !== undefined) {
    const { resolve, reject } = pending.get(message.id);
    pending.delete(message.id);
    if (message.error) reject(new Error(message.error.message)); else resolve(message.result);
  }
}
server.stdout.on('data', (data) => {
  received = Buffer.concat([received, data]);
  for (;;) {
    const head = received.indexOf('\r\n\r\n');
    if (head < 0) return;
    const length = Number(/Content-Length: (\d+)/i.exec(received.subarray(0, head).toString())[1]);
    if (received.length < head + 4 + length) return;
    const body = received.subarray(head + 4, head + 4 + length).toString();
    received = received.subarray(head + 4 + length);
    handle(JSON.parse(body));
  }
});
server.on('exit', (code) => {
  if (sent && pending.size) throw new Error(`the language server ended: ${code}`);
});

let opened = 0;
// Opens a text as a file of the directory, and returns its address with the diagnostics that are published for it.
async function open(text, name) {
  opened += 1;
  const uri = pathToFileURL(join(directory, name ?? `opened-${opened}.yaml`)).href;
  const published = new Promise((resolve) => { diagnostics.set(uri, resolve); });
  send({ method: 'textDocument/didOpen', params: { textDocument: { uri, languageId: 'yaml', version: 1, text } } });
  return { uri, found: await published };
}

const HEAD = '# yaml-language-server: $schema=definition.schema.json\n';

// What is offered at `|`.
async function complete(body) {
  const [before, after] = (HEAD + body).split('|');
  const { uri } = await open(before + after);
  const lines = before.split('\n');
  const position = { line: lines.length - 1, character: lines.at(-1).length };
  const result = await request('textDocument/completion', { textDocument: { uri }, position });
  return (result.items ?? result).map(({ label }) => label);
}
async function offers(body, names) {
  const labels = await complete(body);
  const missing = names.filter((name) => !labels.includes(name));
  assert.deepEqual(missing, [], `not offered in ${JSON.stringify(body)}, only ${JSON.stringify(labels)}`);
}

// A body in which `^` precedes what must be marked: exactly these places, in order.
async function marks(body) {
  const places = [];
  const text = (HEAD + body).split('\n').map((line, number) => {
    const at = line.indexOf('^');
    if (at >= 0) places.push(`${number + 1}:${at + 1}`);
    return line.replace('^', '');
  }).join('\n');
  const { found } = await open(text);
  const marked = found.map(({ range: { start } }) => `${start.line + 1}:${start.character + 1}`);
  assert.deepEqual([...new Set(marked)].sort(), places, `${JSON.stringify(body)}: ${JSON.stringify(found)}`);
}

await request('initialize', {
  processId: process.pid,
  rootUri: pathToFileURL(directory).href,
  workspaceFolders: [{ uri: pathToFileURL(directory).href, name: 'definitions' }],
  capabilities: {
    textDocument: { completion: { completionItem: { snippetSupport: true } }, publishDiagnostics: {} },
    workspace: { configuration: true },
  },
});
send({ method: 'initialized', params: {} });
send({ method: 'workspace/didChangeConfiguration', params: { settings } });

const { properties } = JSON.parse(readFileSync(join(directory, 'definition.schema.json'), 'utf8'));
const groups = properties.fieldsToSync.properties;
const fields = Object.keys(groups.listing.anyOf[1].properties);
assert(fields.includes('name') && fields.length > 20);

await offers('|', ['provider', 'icon', 'partnerKey', 'fieldsToSync', 'hold']);
await offers('provider: HOSTAWAY\n|', ['icon', 'partnerKey', 'fieldsToSync', 'hold']);
await offers('provider: |', properties.provider.enum);
await offers('provider: HOSTAWAY\npartnerKey:\n  |', ['headers', 'queryParams']);
await offers('provider: HOSTAWAY\nhold:\n  |', ['until', 'reason']);
await offers('provider: HOSTAWAY\nfieldsToSync:\n  |', Object.keys(groups));
await offers('provider: HOSTAWAY\nfieldsToSync:\n  li|', ['listing']);
await offers('provider: HOSTAWAY\nfieldsToSync:\n  listing: [|]', fields);
await offers('provider: HOSTAWAY\nfieldsToSync:\n  listing: [na|]', ['name']);
await offers('provider: HOSTAWAY\nfieldsToSync:\n  listing: [type, na|]', ['name']);
await offers('provider: HOSTAWAY\nfieldsToSync:\n  listing:\n    - |', fields);
await offers('provider: HOSTAWAY\nfieldsToSync:\n  listing:\n    - type\n    - na|', ['name']);
await offers('provider: HOSTAWAY\nfieldsToSync:\n  listing:\n    |', fields);
await offers('provider: HOSTAWAY\nfieldsToSync:\n  listing:\n    type: true\n    na|', ['name']);

await marks('provider: HOSTAWAY\nicon: https://cdn.example.com/a.png\nfieldsToSync:\n  listing: {name: true, type: false}\n');
await marks('provider: ^HOSTAWAI\n');
await marks('provider: HOSTAWAY\n^icn: https://cdn.example.com/a.png\n');
await marks('provider: HOSTAWAY\nicon: ^a.png\n');
await marks('provider: HOSTAWAY\npartnerKey:\n  ^header: {}\n');
await marks('provider: HOSTAWAY\nfieldsToSync:\n  ^listings: [name]\n');
await marks('provider: HOSTAWAY\nfieldsToSync:\n  listing: [name, ^romms]\n');
await marks('provider: HOSTAWAY\nfieldsToSync:\n  listing:\n    - name\n    - ^romms\n');
await marks('provider: HOSTAWAY\nfieldsToSync:\n  listing:\n    name: true\n    ^romms: true\n');

const files = readdirSync(directory).filter((name) => name.endsWith('.yaml'));
assert(files.length > 10);
for (const name of files) {
  const { found } = await open(readFileSync(join(directory, name), 'utf8'), name);
  assert.deepEqual(found, [], name);
}

console.log(`${opened} texts and files opened, ${files.length} of them committed`);
await request('shutdown');
send({ method: 'exit' });
