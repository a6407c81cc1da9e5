// The common start of every page: its content, and functions to find and make elements.
"use strict";

const content = JSON.parse(document.getElementById("content").textContent);
const find = (id) => document.getElementById(id);

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}
