/** A drain notice, version 1 of wsroll's drain protocol. */
export interface Notice {
  type: 'wsroll.notice';
  v: 1;
  id: string;
  reason: string;
  deadlineMs?: number;
  reconnect?: { afterMs?: number; withinMs?: number; url?: string | null; query?: string | null; path?: string; header?: string };
  resume?: { token: string; expiresMs: number };
  closeCode?: number;
  makeBeforeBreak?: boolean;
}

export interface Profile {
  /** Milliseconds before each attempt; the last one repeats. Jitter takes up to half of it away. */
  delays: number[];
  /** Whether the first attempt waits for the first delay too. */
  firstWaits: boolean;
}

export type ProfileName = 'graceful' | 'emergency' | 'rolling';

/** How a service's sessions are resumed. Every part may be left out. */
export interface Adapter {
  /** The session is there when `read` says `welcome`, not when the socket is open. */
  waitsForWelcome?: boolean;
  /** Adds what the service needs to the URL. */
  dial?(url: URL, about: { resuming: boolean; overlap: boolean; makeBeforeBreak: boolean; resumeToken?: string }): void;
  /** A socket is open: may send what resumes the session. */
  opened?(send: (data: string | ArrayBuffer) => void, about: { resuming: boolean; resumeToken?: string }): void;
  /** Looks at a message before the application does. */
  read?(data: any, about: { retiring: boolean }): {
    /** The session is there; whether its state was found. */
    welcome?: { resumed?: boolean };
    /** Not for the application: seen before, or of the dialect itself. */
    drop?: boolean;
    /** Answers the message of this id, which need not be repeated any more. */
    answers?: string;
    /** A notice in a framing of the service's own. */
    notice?: Notice;
  };
  /** The id under which a message may be repeated after a resume. */
  idOf?(data: any): string | undefined;
  /** The acknowledgement of a notice, in the service's own framing. */
  ack?(notice: Notice): string;
}

export interface Options {
  protocols?: string | string[];
  adapter?: Adapter;
  /** Query that declares that notices are read; an adapter may do it itself. */
  declare?: string;
  /** Opens the new socket before the old one closes, where a notice allows it. Default: true. */
  makeBeforeBreak?: boolean;
  /** Default: `PROFILES`. */
  profiles?: Partial<Record<ProfileName, Profile>>;
  /** Attempts without five seconds of life in between. Default: 20. */
  maxAttempts?: number;
  /** Messages queued, or sent and not answered. Default: 1000. */
  maxQueue?: number;
  /** Until the session is there. Default: 10,000. */
  connectTimeoutMs?: number;
  /** Sends `message` after `everyMs` of silence; the socket is dead if nothing comes for `timeoutMs` more. */
  health?: { everyMs: number; timeoutMs: number; message: () => string };
  /** What happens after a close. Default: `closePolicy`. */
  onClose?(code: number, notice: Notice | undefined): 'graceful' | 'emergency' | 'stop';
  /** Request headers; only with Node's `ws`. */
  headers?: Record<string, string>;
  /** Another WebSocket class, as the one of Node's `ws`. */
  WebSocket?: any;
  random?: () => number;
}

export interface EventMap {
  /** The first time that the session is there. */
  open: Event;
  message: Event & { data: any };
  notice: Event & { notice: Notice };
  reconnecting: Event & { attempt: number; waitMs: number; profile: ProfileName; code: number };
  /** The session is back. `resumed`: whether its state was found (undefined: the adapter does not say). */
  resumed: Event & { resumed?: boolean; overlap: boolean; attempts: number; downMs: number; repeated: number };
  /** For good. */
  close: Event & { code: number; reason: string; wasClean: boolean; pending: number };
}

export declare const PROFILES: Record<ProfileName, Profile>;
export declare function closePolicy(code: number, notice?: Notice): 'graceful' | 'emergency' | 'stop';
export declare function delayOf(profile: Profile, attempt: number, random?: () => number): number;

export declare class ResumableSocket extends EventTarget {
  static readonly CONNECTING: 0;
  static readonly OPEN: 1;
  static readonly CLOSING: 2;
  static readonly CLOSED: 3;
  constructor(url: string | URL, options?: Options);
  readonly readyState: 0 | 1 | 3;
  readonly url: string;
  readonly protocol: string;
  readonly pending: number;
  readonly bufferedAmount: number;
  onopen: ((event: EventMap['open']) => void) | null;
  onmessage: ((event: EventMap['message']) => void) | null;
  onnotice: ((event: EventMap['notice']) => void) | null;
  onreconnecting: ((event: EventMap['reconnecting']) => void) | null;
  onresumed: ((event: EventMap['resumed']) => void) | null;
  onclose: ((event: EventMap['close']) => void) | null;
  send(data: string | ArrayBuffer | ArrayBufferView | Blob): void;
  close(code?: number, reason?: string): void;
  addEventListener<K extends keyof EventMap>(type: K, listener: (event: EventMap[K]) => void, options?: boolean | AddEventListenerOptions): void;
  removeEventListener<K extends keyof EventMap>(type: K, listener: (event: EventMap[K]) => void, options?: boolean | EventListenerOptions): void;
}

export interface NumberedOptions {
  /** Query parameter with the session's id. Default: `session`. */
  session?: string;
  /** Default: `notice=wsroll.v1`. */
  declare?: string;
  /** Query that says that the new socket comes first; `''` where the service has no such thing. Default: `overlap=1`. */
  overlap?: string;
  /** The session's id, where the client chooses it. */
  id?: string | null;
}

export declare function numberedSessions(names?: NumberedOptions): Adapter & { readonly session: string | null; readonly last: number };
