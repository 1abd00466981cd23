/** Whether an element is in the viewport or close to it. */
import { type RefObject, useEffect, useState } from "react";

/** Elements this close to the viewport are drawn before the user scrolls to them. */
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
