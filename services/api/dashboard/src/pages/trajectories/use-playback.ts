/** Playback position of the replay, set by the user or advanced by a timer. */
import { useEffect, useState } from "react";

const WHOLE_MS = 6000;
const FASTEST_MS = 30;
const SLOWEST_MS = 450;

export interface Playback {
  /** Number of steps made; 0 is the initial state. */
  at: number;
  isPlaying: boolean;
  seek: (at: number) => void;
  toggle: () => void;
}

/** Starts at the last step, which shows the complete response. */
export function usePlayback(numSteps: number): Playback {
  const [at, setAt] = useState(numSteps);
  const [isPlaying, setPlaying] = useState(false);
  useEffect(() => {
    if (!isPlaying) return;
    const pause = Math.min(SLOWEST_MS, Math.max(FASTEST_MS, WHOLE_MS / Math.max(1, numSteps)));
    const timer = setInterval(() => setAt((old) => Math.min(numSteps, old + 1)), pause);
    return () => clearInterval(timer);
  }, [isPlaying, numSteps]);
  if (isPlaying && at >= numSteps) setPlaying(false);
  const seek = (next: number) => {
    setPlaying(false);
    setAt(Math.min(numSteps, Math.max(0, next)));
  };
  const toggle = () => {
    if (!isPlaying && at >= numSteps) setAt(0);
    setPlaying(!isPlaying);
  };
  return { at, isPlaying, seek, toggle };
}

/** Call the action of a pressed key, unless the focused element handles the key itself. */
export function useKeys(actions: Readonly<Record<string, () => void>>): void {
  useEffect(() => {
    const press = (event: KeyboardEvent) => {
      const target = event.target as HTMLElement;
      const action = actions[event.key];
      if (action === undefined || event.metaKey || event.ctrlKey || event.altKey) return;
      if (["INPUT", "SELECT", "TEXTAREA"].includes(target.tagName) && target.getAttribute("type") !== "range") return;
      if (event.key === " " && ["BUTTON", "A"].includes(target.tagName)) return;
      event.preventDefault();
      action();
    };
    document.addEventListener("keydown", press);
    return () => document.removeEventListener("keydown", press);
  }, [actions]);
}
