/** Take a screenshot of every page in both themes: node e2e/screenshots.mjs BASE_URL JOB_ID TRAJECTORY_ID TARGET_DIR */
import process from "node:process";

import { openBrowser } from "./browser.mjs";

const [base, job, trajectory, target] = process.argv.slice(2);
const PAGES = [
  ["jobs", "/"],
  ["job", `/jobs/${job}`],
  ["timeline", `/jobs/${job}/timeline`],
  ["trajectories", `/jobs/${job}/trajectories?purpose=train&group=${trajectory.replace(/^traj_/, "grp_").replace(/_\d+$/, "")}`],
  ["replay", `/jobs/${job}/trajectories/${trajectory}`],
  ["evaluations", `/jobs/${job}/evaluations`],
  ["new-job", `/new?from=${job}`],
  ["system", "/system"],
  ["playground", `/playground?model=${job}`],
];

/** Time for charts and lists that load after the page. */
const SETTLED_MS = 1500;

/** Actions before the screenshot of a page. */
const ACTIONS = {
  async replay(page) {
    await page.getByRole("button", { name: "Show step" }).click();
    await page.locator(".replay-text .token").first().hover();
  },
  async playground(page) {
    await page.getByLabel("Confidence threshold").fill("1");
    await page.getByLabel("Message").fill("Tom had 27 figs, got 45");
    await page.getByRole("button", { name: "Send" }).click();
    await page.getByText("denoising steps").waitFor({ timeout: 60_000 });
  },
};

const browser = await openBrowser();
for (const colorScheme of ["light", "dark"]) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 860 }, colorScheme });
  const page = await context.newPage();
  for (const [name, path] of PAGES) {
    await page.goto(base + path);
    await page.waitForFunction(() => document.querySelector("main > *") !== null && document.querySelector(".loading") === null);
    await ACTIONS[name]?.(page);
    await page.waitForTimeout(SETTLED_MS);
    await page.screenshot({ path: `${target}/${name}-${colorScheme}.png` });
  }
  await context.close();
}
await browser.close();
