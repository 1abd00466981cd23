/** Use a running platform through the dashboard as a user would; prints one JSON object with the observations.
 *
 * node e2e/visit.mjs BASE_URL SPEC_JSON_FILE
 */
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import process from "node:process";

import { openBrowser } from "./browser.mjs";

const [base, specFile] = process.argv.slice(2);
const axe = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
const PATIENCE_MS = 240_000;
const FITTING_MS = 3000;
const VIEWPORT = { width: 1280, height: 860 };
const PHONE = { width: 390, height: 844 };

const seen = { complaints: [], violations: [], wide: [] };

/** Wait two frames, so that the last change is laid out and drawn. */
const drawn = (page) => page.evaluate(() => new Promise((resolve) => requestAnimationFrame(() => requestAnimationFrame(resolve))));

/** Collect serious axe violations of a page in both themes. */
async function examine(page, name) {
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await drawn(page);
    const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
    for (const { id, impact, nodes } of violations) {
      if (impact === "serious" || impact === "critical") seen.violations.push(`${name}, ${colorScheme}: ${id} at ${nodes[0].target.join(" ")}: ${nodes[0].failureSummary}`);
    }
  }
  await page.emulateMedia({ colorScheme: "light" });
}

/** Collect pages that scroll horizontally on a phone after their charts were resized. */
async function narrow(page, name) {
  await page.setViewportSize(PHONE);
  const excess = () => document.documentElement.scrollWidth - document.documentElement.clientWidth;
  const fits = await page.waitForFunction(`(${excess})() <= 0`, undefined, { timeout: FITTING_MS }).catch(() => null);
  if (fits === null) seen.wide.push(`${name}: ${await page.evaluate(excess)} px`);
  await page.setViewportSize(VIEWPORT);
}

/** Check a page once it has loaded. */
async function look(page, name) {
  await page.waitForFunction(() => document.querySelector("main > *") !== null && document.querySelector(".loading") === null);
  await page.evaluate(axe); // the content security policy of the page allows no inline script
  await examine(page, name);
  await narrow(page, name);
}

const state = (page) => page.locator("main header .badge").first();

async function submitFromTheForm(page, spec) {
  await page.goto(`${base}/`);
  await page.getByRole("heading", { name: "No jobs yet" }).waitFor();
  seen.offersDemo = await page.getByRole("button", { name: "Start demo job" }).isVisible();
  await look(page, "no jobs");
  await page.getByRole("link", { name: "New job" }).first().click();
  await page.getByRole("button", { name: "Submit job" }).click();
  seen.refusal = await page.getByRole("alert").innerText();
  await look(page, "new job");
  await page.getByRole("button", { name: "JSON" }).first().click();
  await page.getByLabel("Job spec").fill(JSON.stringify(spec));
  await page.getByRole("button", { name: "Form" }).click();
  seen.formModel = await page.getByLabel(/^model ·/).inputValue();
  await page.getByLabel("suffix").fill("from-the-form");
  seen.curl = await page.getByLabel("curl", { exact: true }).innerText();
  await page.getByRole("button", { name: "Submit job" }).click();
  await page.waitForURL(/\/jobs\/job_/);
  return new URL(page.url()).pathname.split("/").at(-1);
}

/** Read the loss of the first step and of a later one from the label of the chart. */
async function watchTheCurve(page) {
  const chart = page.locator("figure[aria-label=Loss] [role=img]");
  await chart.waitFor();
  const first = await chart.getAttribute("aria-label");
  await page.waitForFunction((old) => document.querySelector("figure[aria-label=Loss] [role=img]")?.getAttribute("aria-label") !== old, first);
  seen.curve = [first, await chart.getAttribute("aria-label")];
  seen.charts = await page.locator("figure.chart").count();
}

async function pauseAndResume(page) {
  await page.getByRole("button", { name: "Pause", exact: true }).click();
  await state(page).filter({ hasText: "paused" }).waitFor();
  seen.paused = true;
  await page.getByRole("button", { name: "Resume", exact: true }).click();
  await state(page).filter({ hasText: "running" }).waitFor();
  seen.resumed = true;
}

const replayText = (page) => page.locator(".replay-text .token-text").allInnerTexts();

/** Text of the replay after a key, once the scrubber is at `step`. */
async function replayTextAfter(page, key, step) {
  await page.keyboard.press(key);
  await page.waitForFunction((at) => document.querySelector(".scrubber").value === String(at), step);
  return replayText(page);
}

async function scrubATrajectory(page, id) {
  await page.goto(`${base}/jobs/${id}/trajectories`);
  await page.locator(".row-button").first().click();
  await page.locator("a.response").first().waitFor();
  await look(page, "groups");
  await page.locator("a.response").first().click();
  const scrubber = page.getByLabel("Denoising step");
  const last = Number(await scrubber.getAttribute("max"));
  seen.whole = await replayText(page);
  seen.beginning = await replayTextAfter(page, "Home", 0);
  seen.afterOneStep = await replayTextAfter(page, "ArrowRight", 1);
  await scrubber.focus();
  seen.again = await replayTextAfter(page, "End", last);
  await look(page, "replay");
}

async function cancelAnother(page, spec) {
  const response = await page.request.post(`${base}/v1/jobs`, { data: { ...spec, suffix: "to-be-cancelled" } });
  await page.goto(`${base}/jobs/${(await response.json()).id}`);
  await page.getByRole("button", { name: "Cancel", exact: true }).click();
  await page.getByRole("button", { name: "Cancel job" }).click();
  await state(page).filter({ hasText: "cancelled" }).waitFor();
  seen.cancelled = true;
}

async function lookAtTheRest(page, id) {
  await page.goto(`${base}/jobs/${id}`);
  await state(page).filter({ hasText: "succeeded" }).waitFor();
  for (const tab of ["charts", "timeline", "evaluations", "checkpoints", "attempts", "events", "spec"]) {
    await page.goto(`${base}/jobs/${id}/${tab}`);
    await look(page, tab);
  }
  await page.goto(`${base}/jobs/${id}/attempts`);
  seen.promptAccounting = await page.getByText(/^Prompt accounting/).first().innerText();
  const jobs = (await (await page.request.get(`${base}/v1/jobs`)).json()).data.map((job) => job.id);
  for (const [name, path] of [["jobs", "/"], ["compare", `/compare?jobs=${jobs.join(",")}`], ["system", "/system"], ["playground", "/playground"], ["nowhere", "/nowhere"]]) {
    await page.goto(base + path);
    await look(page, name);
  }
}

const browser = await openBrowser();
try {
  const context = await browser.newContext({ viewport: VIEWPORT, reducedMotion: "reduce" });
  context.setDefaultTimeout(PATIENCE_MS);
  const page = await context.newPage();
  page.on("pageerror", (error) => seen.complaints.push(`error: ${error.message}`));
  page.on("console", (message) => {
    // Chromium logs every error response; the rejected empty form is part of the visit.
    if (message.type() === "error" && !message.text().includes("status of 400")) seen.complaints.push(message.text());
  });
  const spec = JSON.parse(await readFile(specFile, "utf8"));
  const id = await submitFromTheForm(page, spec);
  await watchTheCurve(page);
  await pauseAndResume(page);
  await cancelAnother(page, spec);
  await scrubATrajectory(page, id);
  await lookAtTheRest(page, id);
  console.log(JSON.stringify(seen));
} catch (error) {
  console.log(JSON.stringify({ ...seen, failure: String(error) }));
  process.exitCode = 1;
} finally {
  await browser.close();
}
