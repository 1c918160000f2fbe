export type { ModelUsage } from "../protocol/messages.js";

/** How far a program is. */
export interface ProgressReportFields {
  done?: number;
  total?: number;
  note?: string;
}
