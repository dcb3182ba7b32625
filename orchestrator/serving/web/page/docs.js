"use strict";
// Shows openapi.json without anything from another site.
function make(name, text, ...children) {
  const element = document.createElement(name);
  element.textContent = text;
  element.append(...children);
  return element;
}

function table(rows) {
  const body = rows.map((cells) => make("tr", "", ...cells.map((cell) => make("td", cell))));
  return make("table", "", make("tbody", "", ...body));
}

function kind(schema) {
  if (!schema) return "";
  if (schema.$ref) return schema.$ref.split("/").at(-1);
  if (schema.anyOf) return schema.anyOf.map(kind).join(" or ");
  if (schema.enum) return schema.enum.map((value) => JSON.stringify(value)).join(" or ");
  if (schema.type === "array") return `list of ${kind(schema.items) || "values"}`;
  return schema.format === "binary" ? "file" : schema.const ? JSON.stringify(schema.const) : schema.type || "";
}

const properties = (schema) => Object.entries(schema.properties || {}).map(([name, property]) =>
  [name + ((schema.required || []).includes(name) ? "" : " (optional)"), kind(property),
    property.description || (property.items && property.items.description) || ""]);

function operation(method, path, told) {
  const section = document.createElement("section");
  section.className = "operation card";
  section.append(make("h2", "", make("code", `${method.toUpperCase()} ${path}`)), make("p", told.description || ""));
  for (const [type, body] of Object.entries(told.requestBody?.content || {})) {
    section.append(make("h3", `Request: ${type}`), table(properties(body.schema)));
  }
  section.append(make("h3", "Answers"), table(Object.entries(told.responses).map(([code, answer]) =>
    [code, answer.description, kind(answer.content?.["application/json"]?.schema)])));
  return section;
}

fetch("openapi.json").then((answer) => answer.json()).then((api) => {
  document.getElementById("about").textContent = api.info.description;
  const list = document.getElementById("operations");
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, told] of Object.entries(methods)) list.append(operation(method, path, told));
  }
  const curl = `curl -F machine=MACHINE -F files=@clip.wav ${location.origin}/score`;
  list.prepend(make("pre", curl));
  for (const [name, schema] of Object.entries(api.components.schemas)) {
    const section = make("section", "", make("h2", name), make("p", schema.description || ""), table(properties(schema)));
    section.className = "operation card";
    list.append(section);
  }
});
