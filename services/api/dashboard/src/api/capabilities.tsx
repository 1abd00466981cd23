/** What this installation offers, by its own word: the OpenAPI document, read once. Nothing is shown that is not there. */
import { createContext, type ReactNode, useContext, useMemo } from "react";

import { callPath } from "./client";
import { useQuery } from "./use-query";

/** A JSON schema, as far as the form reads it. */
export interface Schema {
  $ref?: string;
  type?: string;
  title?: string;
  description?: string;
  default?: unknown;
  enum?: unknown[];
  const?: unknown;
  anyOf?: Schema[];
  allOf?: Schema[];
  items?: Schema;
  properties?: Record<string, Schema>;
  required?: string[];
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
}

interface Operation {
  parameters?: { name: string }[];
}

interface OpenApi {
  info: { version: string };
  paths: Record<string, Record<string, Operation>>;
  components: { schemas: Record<string, Schema> };
}

export interface Capabilities {
  /** Whether there is such an operation, e.g. ("post", "/v1/jobs/{job_id}/fork"). */
  offers: (method: "get" | "post" | "patch" | "delete", path: string) => boolean;
  /** Whether the operation takes this parameter. */
  takes: (method: string, path: string, parameter: string) => boolean;
  /** Schemas by name; undefined until they were read. */
  schemas: Record<string, Schema> | undefined;
}

const Context = createContext<Capabilities>({ offers: () => false, takes: () => false, schemas: undefined });

/** Reads the document for everything below. */
export function CapabilitiesProvider({ children }: { children: ReactNode }) {
  const { data } = useQuery("openapi", (signal) => callPath<OpenApi>("GET", "/openapi.json", undefined, signal));
  const value = useMemo(() => capabilitiesOf(data), [data]);
  return <Context value={value}>{children}</Context>;
}

/** What the document says; nothing while there is none. */
export function capabilitiesOf(document: OpenApi | undefined): Capabilities {
  return {
    offers: (method, path) => document?.paths[path]?.[method] !== undefined,
    takes: (method, path, parameter) => document?.paths[path]?.[method]?.parameters?.some((item) => item.name === parameter) ?? false,
    schemas: document?.components.schemas,
  };
}

/** What the installation offers. */
export function useCapabilities(): Capabilities {
  return useContext(Context);
}
