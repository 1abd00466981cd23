// @vitest-environment jsdom
import { render, screen } from "@testing-library/react";
import { expect, test } from "vitest";

import { ApiError } from "../api/client";
import { ErrorNote } from "./parts";

test("each problem of a file is shown once", () => {
  const problems = [{ path: "row 2", message: "the prompt is empty" }];
  const message = "The file 'a.jsonl' cannot be used: 3 problems\n  row 2: the prompt is empty\n  … and 2 more";
  render(<ErrorNote error={new ApiError(message, 400, "dataset_invalid", problems)} />);
  const shown = screen.getByRole("alert").textContent;
  expect(shown.split("the prompt is empty")).toHaveLength(2);
  expect(shown).toContain("… and 2 more");
});
