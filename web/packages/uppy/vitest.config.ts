import { defineConfig } from "vitest/config";

export default defineConfig({
  cacheDir: "../../node_modules/.vite-uppy",
  resolve: { conditions: ["upwell-source"] },
  ssr: { resolve: { conditions: ["upwell-source", "node"] } },
  test: { include: ["test/*.test.ts"], testTimeout: 90_000, hookTimeout: 90_000 },
});
