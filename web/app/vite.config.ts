import { defineConfig } from "vite";
import { compressed } from "./compressed.ts";

export default defineConfig({
  base: "/page/",
  plugins: [compressed()],
  resolve: { conditions: ["upwell-source", "module", "browser", "production"] },
  build: {
    // Into the Python package: the wheel carries the page.
    outDir: "../../src/upwell/page",
    emptyOutDir: true,
    target: "es2022",
    assetsInlineLimit: 0, // the page's policy allows no data: scripts or styles
    modulePreload: { polyfill: false },
    rolldownOptions: {
      input: { index: "index.html", keeper: "src/keeper.ts" },
      output: {
        // A service worker is known by its address, which stays.
        entryFileNames: ({ name }) => (name === "keeper" ? "[name].js" : "assets/[name]-[hash].js"),
      },
    },
  },
  worker: { format: "es" },
});
