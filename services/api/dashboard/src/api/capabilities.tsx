/** Operations that this installation offers, from its OpenAPI document. The dashboard shows no others. */
import { createContext, type ReactNode, useContext, useMemo } from "react";

import { callPath } from "./client";
import { useQuery } from "./use-query";

/** The part of JSON Schema that the form uses. */
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
  /** Whether the API has the operation, e.g. ("post", "/v1/jobs/{job_id}/fork"). */
  offers: (method: "get" | "post" | "patch" | "delete", path: string) => boolean;
  /** Whether the operation takes this parameter. */
  takes: (method: string, path: string, parameter: string) => boolean;
  /** Schemas by name; undefined while loading. */
  schemas: Record<string, Schema> | undefined;
}

const Context = createContext<Capabilities>({ offers: () => false, takes: () => false, schemas: undefined });

/** Loads the OpenAPI document for all descendants. */
export function CapabilitiesProvider({ children }: { children: ReactNode }) {
  const { data } = useQuery("openapi", (signal) => callPath<OpenApi>("GET", "/openapi.json", undefined, signal));
  const value = useMemo(() => capabilitiesOf(data), [data]);
  return <Context value={value}>{children}</Context>;
}

/** Capabilities from the OpenAPI document; none while it loads. */
export function capabilitiesOf(document: OpenApi | undefined): Capabilities {
  return {
    offers: (method, path) => document?.paths[path]?.[method] !== undefined,
    takes: (method, path, parameter) => document?.paths[path]?.[method]?.parameters?.some((item) => item.name === parameter) ?? false,
    schemas: document?.components.schemas,
  };
}

/** Capabilities of the installation. */
export function useCapabilities(): Capabilities {
  return useContext(Context);
}
