import { describe, expect, it } from "vitest";
import { isRestart, isVerified } from "./accounting";

const SOUND = { moment: "end", issued: 8, trained: 6, dropped: { zero_variance: 1 }, open: 1, lost: 0, trained_twice: 0, digest_before: "d", digest_after: "d" };

describe("a certificate", () => {
  it("holds when every prompt is accounted for and the weights are those saved", () => {
    expect(isVerified(SOUND)).toBe(true);
  });

  it.each([{ lost: 1 }, { trained_twice: 1 }, { trained: 5 }, { digest_after: "other" }])("does not hold with %o", (change) => {
    expect(isVerified({ ...SOUND, ...change })).toBe(false);
  });

  it("of a restart has no saved weights to compare with", () => {
    const restart = { ...SOUND, moment: "restart", digest_before: null };
    expect([isVerified(restart), isRestart(restart), isRestart(SOUND)]).toEqual([true, true, false]);
  });
});
