import { Store } from "../store.ts";

export type Route = { view: "files" } | { view: "bundles" } | { view: "bundle"; id: string };

/** What the part of the address after # asks for. */
export function parse(hash: string): Route {
  const [view, id] = hash.replace(/^#\/?/, "").split("/");
  if (view !== "bundles") return { view: "files" };
  return id ? { view: "bundle", id } : { view: "bundles" };
}

export const route = new Store<Route>(parse(location.hash));

addEventListener("hashchange", () => route.set(parse(location.hash)));
