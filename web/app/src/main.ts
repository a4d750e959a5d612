import { VERSION } from "@upwell/client";

const app = document.querySelector("#app");
if (app) app.textContent = `Upwell ${VERSION}`;
