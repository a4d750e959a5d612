export { VERSION } from "@upwell/client";
