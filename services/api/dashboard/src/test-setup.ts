/** A busy machine is no reason to fail: what is waited for comes late, not never. */
import { configure } from "@testing-library/dom";

configure({ asyncUtilTimeout: 20_000 });
