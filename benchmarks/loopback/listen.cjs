// How is a Node server kept on this machine that listens on every interface whatever it is told? Loaded by `node --require`.
// A listen without a host, or on a wildcard, becomes one on 127.0.0.1. Addresses that were chosen, and sockets by path, stay as they are.
"use strict";
const net = require("node:net");

const wild = (host) => host === undefined || host === null || host === "" || host === "0.0.0.0" || host === "::";
const isPort = (value) => typeof value === "number" || (typeof value === "string" && /^\d+$/.test(value));
const listen = net.Server.prototype.listen;

net.Server.prototype.listen = function (...given) {
  const [first, second, ...rest] = given;
  if (first !== null && typeof first === "object" && first.path === undefined && first.fd === undefined && first.port !== undefined) {
    return listen.call(this, wild(first.host) ? { ...first, host: "127.0.0.1" } : first, ...given.slice(1));
  }
  if (isPort(first)) {
    if (typeof second === "string") return listen.call(this, first, wild(second) ? "127.0.0.1" : second, ...rest);
    const others = given.slice(1).filter((value) => value !== undefined && value !== null);
    return listen.call(this, first, "127.0.0.1", ...others);
  }
  if (first === undefined || typeof first === "function") return listen.call(this, 0, "127.0.0.1", ...given.filter((value) => value !== undefined));
  return listen.apply(this, given);
};
