/** Whether an element is in sight, or so near that it is next. */
import { type RefObject, useEffect, useState } from "react";

/** How far outside the window is near: what is scrolled to is there before it is seen. */
const MARGIN = "200px 0px";

export function useNear(element: RefObject<Element | null>): boolean {
  const [isNear, setNear] = useState(false);
  useEffect(() => {
    const observed = element.current;
    if (observed === null) return;
    const observer = new IntersectionObserver((entries) => setNear(entries.at(-1)?.isIntersecting ?? false), { rootMargin: MARGIN });
    observer.observe(observed);
    return () => observer.disconnect();
  }, [element]);
  return isNear;
}
