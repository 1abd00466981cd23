/** A visit to a running platform, as a person makes it; prints one JSON object with what was seen.
 *
 * node e2e/visit.mjs BASE_URL SPEC_JSON_FILE
 */
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import process from "node:process";

import { openBrowser } from "./browser.mjs";

const [base, specFile] = process.argv.slice(2);
const AXE = createRequire(import.meta.url).resolve("axe-core/axe.min.js");
const PATIENCE_MS = 240_000;
const VIEWPORT = { width: 1280, height: 860 };
const PHONE = { width: 390, height: 844 };

const seen = { complaints: [], violations: [], wide: [] };

/** The rules of axe that a page breaks seriously, in both themes. */
async function examine(page, name) {
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await page.waitForTimeout(150);
    await page.addScriptTag({ path: AXE });
    const { violations } = await page.evaluate(() => window.axe.run(document, { resultTypes: ["violations"] }));
    for (const { id, impact, nodes } of violations) {
      if (impact === "serious" || impact === "critical") seen.violations.push(`${name}, ${colorScheme}: ${id} at ${nodes[0].target.join(" ")}: ${nodes[0].failureSummary}`);
    }
  }
  await page.emulateMedia({ colorScheme: "light" });
}

/** Whether the page itself scrolls sideways on a phone. */
async function narrow(page, name) {
  await page.setViewportSize(PHONE);
  await page.waitForTimeout(200);
  const excess = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (excess > 0) seen.wide.push(`${name}: ${excess} px`);
  await page.setViewportSize(VIEWPORT);
}

async function look(page, name) {
  await examine(page, name);
  await narrow(page, name);
}

const state = (page) => page.locator("main header .badge").first();

async function submitFromTheForm(page, spec) {
  await page.goto(`${base}/`);
  await page.getByRole("heading", { name: "No jobs yet" }).waitFor();
  seen.offersDemo = await page.getByRole("button", { name: "Start the demo job" }).isVisible();
  await look(page, "no jobs");
  await page.getByRole("link", { name: "New job" }).first().click();
  await page.getByRole("button", { name: "Submit the job" }).click();
  seen.refusal = await page.getByRole("alert").innerText();
  await look(page, "new job");
  await page.getByRole("button", { name: "JSON" }).first().click();
  await page.getByLabel("Job spec").fill(JSON.stringify(spec));
  await page.getByRole("button", { name: "Form" }).click();
  seen.formModel = await page.getByLabel(/^model ·/).inputValue();
  await page.getByLabel("suffix").fill("from-the-form");
  seen.curl = await page.getByLabel("curl", { exact: true }).innerText();
  await page.getByRole("button", { name: "Submit the job" }).click();
  await page.waitForURL(/\/jobs\/job_/);
  return new URL(page.url()).pathname.split("/").at(-1);
}

/** The loss of the first step, and one of a later step, as the chart's own label tells them. */
async function watchTheCurve(page) {
  const chart = page.locator("figure[aria-label=Loss] [role=img]");
  await chart.waitFor({ timeout: PATIENCE_MS });
  const first = await chart.getAttribute("aria-label");
  await page.waitForFunction((old) => document.querySelector("figure[aria-label=Loss] [role=img]")?.getAttribute("aria-label") !== old, first, { timeout: PATIENCE_MS });
  seen.curve = [first, await chart.getAttribute("aria-label")];
  seen.charts = await page.locator("figure.chart").count();
}

async function pauseAndResume(page) {
  await page.getByRole("button", { name: "Pause", exact: true }).click({ timeout: PATIENCE_MS });
  await state(page).filter({ hasText: "paused" }).waitFor({ timeout: PATIENCE_MS });
  seen.paused = true;
  await page.getByRole("button", { name: "Resume", exact: true }).click();
  await state(page).filter({ hasText: "running" }).waitFor({ timeout: PATIENCE_MS });
  seen.resumed = true;
}

const film = (page) => page.locator(".film .token-text").allInnerTexts();

async function scrubATrajectory(page, id) {
  await page.goto(`${base}/jobs/${id}/trajectories`);
  await page.locator(".row-button").first().click({ timeout: PATIENCE_MS });
  await page.locator("a.response").first().waitFor();
  await look(page, "groups");
  await page.locator("a.response").first().click();
  await page.getByLabel("Denoising step").waitFor();
  seen.whole = await film(page);
  await page.keyboard.press("Home");
  seen.beginning = await film(page);
  await page.keyboard.press("ArrowRight");
  seen.afterOneStep = await film(page);
  await page.getByLabel("Denoising step").focus();
  await page.keyboard.press("End");
  seen.again = await film(page);
  await look(page, "replay");
}

async function cancelAnother(page, spec) {
  const answer = await page.request.post(`${base}/v1/jobs`, { data: { ...spec, suffix: "to-be-cancelled" } });
  await page.goto(`${base}/jobs/${(await answer.json()).id}`);
  await page.getByRole("button", { name: "Cancel", exact: true }).click();
  await page.getByRole("button", { name: "Cancel the job" }).click();
  await state(page).filter({ hasText: "cancelled" }).waitFor({ timeout: PATIENCE_MS });
  seen.cancelled = true;
}

async function lookAtTheRest(page, id) {
  await page.goto(`${base}/jobs/${id}`);
  await state(page).filter({ hasText: "succeeded" }).waitFor({ timeout: PATIENCE_MS });
  for (const tab of ["charts", "timeline", "evaluations", "checkpoints", "attempts", "events", "spec"]) {
    await page.goto(`${base}/jobs/${id}/${tab}`);
    await page.waitForLoadState("networkidle").catch(() => undefined);
    await look(page, tab);
  }
  await page.goto(`${base}/jobs/${id}/attempts`);
  seen.certificate = await page.getByText("Certificate:").first().innerText();
  const jobs = (await (await page.request.get(`${base}/v1/jobs`)).json()).data.map((job) => job.id);
  for (const [name, path] of [["jobs", "/"], ["compare", `/compare?jobs=${jobs.join(",")}`], ["system", "/system"], ["playground", "/playground"], ["nowhere", "/nowhere"]]) {
    await page.goto(base + path);
    await page.waitForTimeout(600);
    await look(page, name);
  }
}

const browser = await openBrowser();
try {
  const context = await browser.newContext({ viewport: VIEWPORT });
  const page = await context.newPage();
  page.on("pageerror", (error) => seen.complaints.push(`error: ${error.message}`));
  page.on("console", (message) => {
    // The browser itself reports every refused request; refusing the empty form is part of the visit.
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
