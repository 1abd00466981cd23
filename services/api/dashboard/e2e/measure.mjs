/** How quick the dashboard is: node e2e/measure.mjs BASE_URL JOB_ID TRAJECTORY_ID LIVE_SECONDS; JSON lines. */
import process from "node:process";

import { openBrowser } from "./browser.mjs";

const [base, job, trajectory, liveSeconds] = process.argv.slice(2);
const REPEATS = 5;
const SEEKS = 60;

const print = (line) => console.log(JSON.stringify(line));
const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

/** Milliseconds from the navigation to the frame in which every chart that has values is drawn. */
async function firstPaint(page) {
  await page.goto(`${base}/jobs/${job}`);
  return page.evaluate(() => new Promise((resolve) => {
    const look = () => {
      const charts = document.querySelectorAll("figure.chart").length;
      if (charts > 0 && document.querySelectorAll("figure.chart canvas").length === charts) requestAnimationFrame(() => resolve(performance.now()));
      else requestAnimationFrame(look);
    };
    look();
  }));
}

async function heapMib(session) {
  await session.send("HeapProfiler.collectGarbage");
  const { metrics } = await session.send("Performance.getMetrics");
  return metrics.find((metric) => metric.name === "JSHeapUsedSize").value / 2 ** 20;
}

/** Megabytes of the page's heap after a tenth of the time and at its end, while steps arrive. */
async function liveMemory(page) {
  const session = await page.context().newCDPSession(page);
  await session.send("Performance.enable");
  await page.waitForTimeout((liveSeconds * 1000) / 10);
  const early = await heapMib(session);
  const stepsEarly = await page.locator(".job-progress .num").first().innerText();
  await page.waitForTimeout((liveSeconds * 9000) / 10);
  return { early_mib: early, late_mib: await heapMib(session), from: stepsEarly, to: await page.locator(".job-progress .num").first().innerText() };
}

/** Milliseconds from a seek to the frame that shows it, over places all along the response. */
async function seeking(page) {
  await page.goto(`${base}/jobs/${job}/trajectories/${trajectory}`);
  await page.getByLabel("Denoising step").waitFor();
  return page.evaluate(async (seeks) => {
    const slider = document.querySelector(".scrubber");
    const set = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value").set;
    const times = [];
    for (let place = 0; place < seeks; place++) {
      const began = performance.now();
      set.call(slider, String(Math.floor((Number(slider.max) * ((place * 37) % seeks)) / seeks)));
      slider.dispatchEvent(new Event("input", { bubbles: true }));
      await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
      times.push(performance.now() - began);
    }
    const step = [];
    for (let place = 0; place < seeks; place++) {
      const began = performance.now();
      document.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowLeft", bubbles: true }));
      await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
      step.push(performance.now() - began);
    }
    return { tokens: document.querySelectorAll("[data-token]").length, seek: times, step };
  }, SEEKS);
}

const browser = await openBrowser();
const page = await (await browser.newContext({ viewport: { width: 1280, height: 860 } })).newPage();
const paints = [];
for (let repeat = 0; repeat < REPEATS; repeat++) paints.push(await firstPaint(page));
print({ name: "first_paint", first_ms: paints[0], median_ms: median(paints.slice(1)) });
print({ name: "live", seconds: Number(liveSeconds), ...(await liveMemory(page)) });
const { tokens, seek, step } = await seeking(page);
print({ name: "replay", tokens, seek_median_ms: median(seek), seek_max_ms: Math.max(...seek), step_median_ms: median(step), step_max_ms: Math.max(...step) });
await browser.close();
