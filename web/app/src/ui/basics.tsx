import type { ComponentChildren, JSX } from "preact";
import { useId, useLayoutEffect, useRef } from "preact/hooks";
import { Icon, type IconName } from "./icons.tsx";

interface ButtonProps extends Omit<JSX.HTMLAttributes<HTMLButtonElement>, "icon"> {
  icon?: IconName;
  kind?: "main" | "plain" | "quiet" | "danger";
  disabled?: boolean;
  type?: "button" | "submit";
  form?: string;
  children?: ComponentChildren;
}

export function Button({ icon, kind = "plain", children, type, ...rest }: ButtonProps) {
  return (
    <button type={type ?? "button"} {...rest} class={`button ${kind}`}>
      {icon && <Icon name={icon} />}
      {children !== undefined && <span>{children}</span>}
    </button>
  );
}

interface IconButtonProps extends Omit<JSX.HTMLAttributes<HTMLButtonElement>, "icon" | "label"> {
  icon: IconName;
  label: string;
  disabled?: boolean;
  type?: "button" | "submit";
}

/** A button that shows only a picture; `label` is what it says. */
export function IconButton({ icon, label, type, ...rest }: IconButtonProps) {
  return (
    <button type={type ?? "button"} {...rest} class="icon-button" aria-label={label} title={label}>
      <Icon name={icon} />
    </button>
  );
}

interface FieldProps extends Omit<JSX.InputHTMLAttributes<HTMLInputElement>, "label"> {
  label: string;
  hint?: ComponentChildren;
  /** What is wrong with the value. */
  problem?: string | null | undefined;
  value: string;
  onValue: (value: string) => void;
}

/** A labelled line of text. */
export function Field({ label, hint, problem, value, onValue, ...rest }: FieldProps) {
  const id = useId();
  const told = [hint ? `${id}-hint` : "", problem ? `${id}-problem` : ""].filter(Boolean).join(" ");
  return (
    <div class="field">
      <label for={id}>{label}</label>
      <input
        {...rest}
        id={id}
        value={value}
        onInput={(event) => onValue(event.currentTarget.value)}
        aria-invalid={problem ? "true" : undefined}
        aria-describedby={told || undefined}
      />
      {hint && (
        <p id={`${id}-hint`} class="hint">
          {hint}
        </p>
      )}
      {problem && (
        <p id={`${id}-problem`} class="problem">
          {problem}
        </p>
      )}
    </div>
  );
}

interface ChoiceProps<T extends string> {
  label: string;
  value: T;
  options: readonly (readonly [value: T, text: string])[];
  onValue: (value: T) => void;
  compact?: boolean;
}

/** A labelled choice among a few. */
export function Choice<T extends string>(props: ChoiceProps<T>) {
  const { label, value, options, onValue, compact } = props;
  const id = useId();
  return (
    <div class={compact ? "field compact" : "field"}>
      <label for={id}>{label}</label>
      <select id={id} value={value} onChange={(event) => onValue(event.currentTarget.value as T)}>
        {options.map(([each, text]) => (
          <option key={each} value={each}>
            {text}
          </option>
        ))}
      </select>
    </div>
  );
}

interface SwitchProps {
  label: string;
  checked: boolean;
  onChecked: (checked: boolean) => void;
  disabled?: boolean;
}

export function Switch({ label, checked, onChecked, disabled }: SwitchProps) {
  return (
    <label class="switch">
      <input
        type="checkbox"
        role="switch"
        aria-checked={checked}
        checked={checked}
        disabled={disabled ?? false}
        onChange={(event) => onChecked(event.currentTarget.checked)}
      />
      <span class="track" aria-hidden="true" />
      <span>{label}</span>
    </label>
  );
}

interface BarProps {
  /** 0 to 1. */
  share: number;
  label: string;
  tone?: "accent" | "calm" | "full";
}

/** How much of something is done or used. */
export function Bar({ share, label, tone = "accent" }: BarProps) {
  const fill = useRef<HTMLSpanElement>(null);
  useLayoutEffect(() => {
    // By script: the page's policy allows no style attributes.
    fill.current?.style.setProperty("--share", String(Math.min(1, Math.max(0, share))));
  }, [share]);
  const percent = Math.round(share * 100);
  return (
    <div
      class={`bar ${tone}`}
      role="progressbar"
      aria-label={label}
      aria-valuemin={0}
      aria-valuemax={100}
      aria-valuenow={percent}
    >
      <span ref={fill} />
    </div>
  );
}
