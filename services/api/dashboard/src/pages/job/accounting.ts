/** Certificates: the accounting of prompts that an attempt gives when it resumes and when it ends. */
export type Accounting = Record<string, unknown>;

export function count(accounting: Accounting, name: string): number {
  return Number(accounting[name] ?? 0);
}

export function dropped(accounting: Accounting): [string, number][] {
  return Object.entries((accounting["dropped"] ?? {}) as Record<string, number>);
}

/** Whether the attempt began at step 0 although earlier ones had done steps. */
export function isRestart(accounting: Accounting): boolean {
  return accounting["moment"] === "restart";
}

/** Whether no prompt was lost or trained twice, and the loaded weights are the saved ones, where there were any. */
export function isVerified(accounting: Accounting): boolean {
  const accounted = count(accounting, "trained") + count(accounting, "open") + dropped(accounting).reduce((sum, [, value]) => sum + value, 0);
  const sameWeights = accounting["digest_before"] === null || accounting["digest_before"] === accounting["digest_after"];
  return count(accounting, "lost") === 0 && count(accounting, "trained_twice") === 0 && count(accounting, "miscounted") === 0 && count(accounting, "issued") === accounted && sameWeights;
}
