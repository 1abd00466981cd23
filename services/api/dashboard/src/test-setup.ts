/** Generous timeouts, so that a loaded machine does not fail a test. */
import { configure } from "@testing-library/dom";

configure({ asyncUtilTimeout: 20_000 });
