// Reads openapi.json to people.

const make = (name, properties = {}, ...children) => {
  const element = Object.assign(document.createElement(name), properties);
  element.append(...children);
  return element;
};

function example(schema, root) {
  if (!schema) return null;
  if (schema.$ref) return example(root.components.schemas[schema.$ref.split("/").pop()], root);
  if (schema.examples) return schema.examples[0];
  if (schema.anyOf) return example(schema.anyOf.find((each) => each.type !== "null"), root);
  if (schema.type === "array") return [example(schema.items, root)];
  if (schema.type === "object") {
    const names = Object.entries(schema.properties ?? {});
    return Object.fromEntries(names.map(([name, each]) => [name, example(each, root)]));
  }
  return schema.const ?? schema.enum?.[0] ?? null;
}

function curl(method, path, operation) {
  const address = location.origin + path.replace(/{(\w+)}/g, (_, name) =>
    operation.parameters?.find((each) => each.name === name)?.schema?.examples?.[0] ?? operation.parameters?.find((each) => each.name === name)?.examples?.[0] ?? name);
  const words = ["curl", ...(method === "get" ? [] : ["-X", method.toUpperCase()])];
  const kinds = Object.keys(operation.requestBody?.content ?? {});
  if (kinds.includes("image/png")) words.push("-H 'Content-Type: image/png' --data-binary @part.png");
  else if (kinds.length) words.push("-F images=@one.png -F images=@two.png");
  if (operation.security) words.push("-H \"X-API-Key: $STLM_API_KEY\"");
  return `${words.join(" ")} ${address}`;
}

function table(rows) {
  return make("table", {}, ...rows.map((row) => make("tr", {}, ...row.map((cell) => make("td", { textContent: cell })))));
}

function operation(method, path, told, root) {
  const body = [make("p", { textContent: (told.description ?? "").replaceAll("`", "") }), make("pre", { textContent: curl(method, path, told) })];
  if (told.parameters) {
    body.push(make("h3", { textContent: "Parameters" }));
    body.push(table(told.parameters.map((each) => [each.name, `in ${each.in}`, each.description ?? ""])));
  }
  body.push(make("h3", { textContent: "Answers" }));
  body.push(table(Object.entries(told.responses).map(([status, each]) => [status, each.description])));
  for (const [kind, content] of Object.entries(told.responses["200"]?.content ?? {})) {
    const value = content.schema?.format === "binary" ? null : example(content.schema, root);
    if (value && typeof value === "object") {
      body.push(make("h3", { textContent: `Example (${kind})` }), make("pre", { textContent: JSON.stringify(value, null, 2) }));
    }
  }
  const summary = make("summary", {}, make("b", { textContent: method.toUpperCase() }), make("code", { textContent: path }), make("span", { textContent: told.summary }));
  return make("details", { className: "card" }, summary, ...body);
}

const root = await (await fetch("openapi.json")).json();
const main = document.getElementById("docs");
document.getElementById("title").textContent = `${root.info.title} ${root.info.version}`;
for (const text of root.info.description.split("\n\n")) main.append(make("p", { textContent: text.replaceAll("`", "") }));
const groups = new Map();
for (const [path, methods] of Object.entries(root.paths)) {
  for (const [method, told] of Object.entries(methods)) {
    const name = told.tags?.[0] ?? "Other";
    groups.set(name, [...(groups.get(name) ?? []), operation(method, path, told, root)]);
  }
}
for (const [name, operations] of groups) main.append(make("h2", { textContent: name }), ...operations);
