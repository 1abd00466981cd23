/** Measure the speed of the dashboard: node e2e/measure.mjs BASE_URL JOB_ID TRAJECTORY_ID LIVE_SECONDS; JSON lines. */
import process from "node:process";

import { openBrowser } from "./browser.mjs";

const [base, job, trajectory, liveSeconds] = process.argv.slice(2);
const REPEATS = 5;
const SEEKS = 60;
const READINGS = 8;

const print = (line) => console.log(JSON.stringify(line));
const median = (values) => [...values].sort((a, b) => a - b)[Math.floor(values.length / 2)];

/** Milliseconds from navigation to the frame in which all charts have values and the visible ones are drawn. */
async function firstPaint(page) {
  await page.goto(`${base}/jobs/${job}`);
  return page.evaluate(() => new Promise((resolve) => {
    const isDrawn = (chart) => chart.getBoundingClientRect().top >= window.innerHeight || chart.querySelector("canvas") !== null;
    const look = () => {
      const charts = [...document.querySelectorAll("figure.chart")];
      const isEmpty = charts.length === 0 || document.querySelector(".chart-empty") !== null;
      if (!isEmpty && charts.every(isDrawn)) requestAnimationFrame(() => resolve(performance.now()));
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

/** Median heap size in MiB of `READINGS` readings over `milliseconds`, each after a garbage collection. */
async function medianHeapMib(page, session, milliseconds) {
  const found = [];
  for (let reading = 0; reading < READINGS; reading++) {
    await page.waitForTimeout(milliseconds / READINGS);
    found.push(await heapMib(session));
  }
  return median(found);
}

/** Heap size in MiB while steps arrive, for each third of the time; the first third is warm-up. */
async function liveMemory(page) {
  const session = await page.context().newCDPSession(page);
  await session.send("Performance.enable");
  const thirds = [];
  const steps = () => page.locator(".job-progress .num").first().innerText();
  const from = await steps();
  for (let third = 0; third < 3; third++) thirds.push(await medianHeapMib(page, session, (liveSeconds * 1000) / 3));
  return { warming_mib: thirds[0], early_mib: thirds[1], late_mib: thirds[2], from, to: await steps() };
}

/** Milliseconds from a seek to the frame that shows it, over positions along the response. */
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
    const stepping = async (key) => {
      const steps = [];
      for (let place = 0; place < seeks; place++) {
        const began = performance.now();
        document.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
        await new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve)));
        steps.push(performance.now() - began);
      }
      return steps;
    };
    const [back, forward] = [await stepping("ArrowLeft"), await stepping("ArrowRight")];
    return { tokens: document.querySelectorAll("[data-token]").length, seek: times, back, forward };
  }, SEEKS);
}

const browser = await openBrowser();
const page = await (await browser.newContext({ viewport: { width: 1280, height: 860 } })).newPage();
const paints = [];
for (let repeat = 0; repeat < REPEATS; repeat++) paints.push(await firstPaint(page));
print({ name: "first_paint", first_ms: paints[0], median_ms: median(paints.slice(1)) });
print({ name: "live", seconds: Number(liveSeconds), ...(await liveMemory(page)) });
const { tokens, ...times } = await seeking(page);
const timed = Object.entries(times).flatMap(([name, values]) => [[`${name}_median_ms`, median(values)], [`${name}_max_ms`, Math.max(...values)]]);
print({ name: "replay", tokens, ...Object.fromEntries(timed) });
await browser.close();
