import "./ui/tokens.css";
import "./ui/base.css";
import "./ui/components.css";
import "./charts/charts.css";
import "./pages/pages.css";
import "./pages/trajectories/replay.css";

import { createRoot } from "react-dom/client";

import { App } from "./app";

const root = document.getElementById("root");
if (root === null) throw new Error("index.html has no #root");
createRoot(root).render(<App />);
