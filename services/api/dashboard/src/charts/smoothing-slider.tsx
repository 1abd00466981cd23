/** Slider for the weight of the past in the exponential moving average; 0 draws the raw values. */

const MAX_SMOOTHING = 0.99;

export function SmoothingSlider({ value, onChange }: { value: number; onChange: (value: number) => void }) {
  return (
    <label className="check small smoothing">
      Smoothing
      <input type="range" min={0} max={MAX_SMOOTHING} step={0.01} value={value} onChange={(event) => onChange(Number(event.target.value))} />
      <span className="num">{value.toFixed(2)}</span>
    </label>
  );
}
