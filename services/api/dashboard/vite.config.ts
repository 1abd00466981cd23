import react from "@vitejs/plugin-react";
import { defineConfig } from "vitest/config";

/** Where `npm run dev` finds a running platform. */
const platform = "http://127.0.0.1:8000";

export default defineConfig({
  plugins: [react()],
  build: { rolldownOptions: { input: ["index.html", "docs.html"] }, target: "es2022", sourcemap: false, reportCompressedSize: true, chunkSizeWarningLimit: 1600 },
  server: { proxy: { "/v1": platform, "/openapi.json": platform, "/readyz": platform } },
  test: { include: ["src/**/*.test.{ts,tsx}"], restoreMocks: true, setupFiles: "src/test-setup.ts", testTimeout: 60_000 },
});
