// The charts: commands, bytes, latency and ports over time, drawn by uPlot.
/* global uPlot */

import { formatBytes, formatCount, formatDuration, formatRate, formatTime } from "./format.js";

const KEPT = 900; // seconds
const SHORTEST = 60; // seconds that the time axis shows at least
const HEIGHT = 150;

// `least` is the smallest range of the scale. `series` are fields of a second, with what the legend
// calls them, their colour, whether they are filled, and their dashes.
const CHARTS = [
  {
    id: "commands",
    format: formatRate,
    least: 1,
    series: [
      ["commands", "commands/s", "--series-1", true],
      ["errors", "errors/s", "--series-bad"],
    ],
  },
  { id: "bytes", format: (value) => `${formatBytes(value)}/s`, least: 1000, series: [["bytes", "to clients", "--series-2", true]] },
  {
    id: "latency",
    format: formatDuration,
    logarithmic: true,
    series: [
      ["first_byte", "first byte p50", "--series-1"],
      ["first_byte_p99", "first byte p99", "--series-1", false, [4, 3]],
      ["duration", "whole reply p50", "--series-3"],
      ["duration_p99", "whole reply p99", "--series-3", false, [4, 3]],
    ],
  },
  { id: "ports", format: formatCount, least: 1, whole: true, series: [["entries", "ports in use", "--series-4", true]] },
];

// Distances of the ticks of a scale that counts.
const WHOLE = [0, 1, 2, 3, 4, 5].flatMap((power) => [1, 2, 5].map((digit) => digit * 10 ** power));

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** The four charts, and the seconds that they show. */
export class Charts {
  #seconds = [];
  #fields = [];
  #charts = [];

  constructor() {
    for (const chart of CHARTS) {
      const figure = document.getElementById(`chart-${chart.id}`);
      const plot = this.#plot(chart, figure);
      this.#charts.push({ ...chart, figure, plot });
      new ResizeObserver(() => {
        const width = figure.clientWidth;
        if (width > 0 && width !== plot.width) plot.setSize({ width, height: HEIGHT });
      }).observe(figure);
    }
  }

  /** Forget all seconds: another daemon's follow. */
  clear() {
    this.#seconds = [];
  }

  /** Add seconds, as /page/rates returns them, and draw. */
  add(fields, seconds) {
    this.#fields = fields;
    this.#seconds.push(...seconds);
    if (this.#seconds.length > KEPT) this.#seconds.splice(0, this.#seconds.length - KEPT);
    this.draw();
  }

  draw() {
    const column = (field) => {
      const place = this.#fields.indexOf(field);
      return this.#seconds.map((second) => second[place]);
    };
    const times = column("time").map((time) => time / 1000);
    for (const { plot, series, figure, format } of this.#charts) {
      const columns = series.map(([field]) => column(field));
      plot.setData([times, ...columns]);
      const last = series.map(([, label], place) => `${label} ${write(format, columns[place].at(-1))}`);
      figure.querySelector(".plot").setAttribute("aria-label", `Now: ${last.join(", ")}`);
    }
  }

  /** Draw in the colours of the theme that is chosen now. */
  recolour() {
    for (const { plot } of this.#charts) {
      plot.redraw(true, true);
      plot.setLegend({ idx: null });
    }
  }

  #plot(chart, figure) {
    const axis = {
      stroke: () => colour("--quiet"),
      grid: { stroke: () => colour("--line"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
    };
    const options = {
      width: Math.max(figure.clientWidth, 200),
      height: HEIGHT,
      padding: [8, 22, 0, 0],
      cursor: { sync: { key: "natproxy" }, drag: { x: false, y: false }, points: { size: 6 } },
      legend: { markers: { width: 0, fill: (plot, place) => marker(chart.series[place - 1]) } },
      scales: {
        x: { range: (plot, low, high) => timeRange(low, high) },
        y: chart.logarithmic
          ? { distr: 3, range: (plot, low, high) => logarithmicRange(low, high) }
          : { range: (plot, low, high) => [0, Math.max(high * 1.1, chart.least)] },
      },
      axes: [
        { ...axis, size: 24, space: 80, values: (plot, ticks) => ticks.map((tick) => formatTick(tick)) },
        {
          ...axis,
          size: 64,
          space: 30,
          values: (plot, ticks) => ticks.map((tick) => (tick === null ? "" : chart.format(tick).replace(/\.0(?=\D)/, ""))),
          ...(chart.whole ? { incrs: WHOLE } : {}),
          ...(chart.logarithmic ? { filter: onlyPowersOfTen, grid: { ...axis.grid, filter: onlyPowersOfTen } } : {}),
        },
      ],
      series: [
        { value: (plot, time) => (time == null ? "now" : formatTime(new Date(time * 1000))) },
        ...chart.series.map(([, label, name, filled, dash]) => ({
          label,
          stroke: () => colour(name),
          fill: filled ? () => `color-mix(in srgb, ${colour(name)} 14%, transparent)` : undefined,
          width: 1.5,
          dash,
          value: (plot, value, series, index) => write(chart.format, index == null ? plot.data[series].at(-1) : value),
          points: { size: 4 },
        })),
      ],
    };
    return new uPlot(options, [[], ...chart.series.map(() => [])], figure.querySelector(".plot"));
  }
}

const write = (format, value) => (value == null ? "–" : format(value));

const marker = ([, , name, , dash]) =>
  dash ? `repeating-linear-gradient(90deg, ${colour(name)} 0 4px, transparent 4px 6px)` : colour(name);

function timeRange(low, high) {
  const end = high ?? Date.now() / 1000;
  return [Math.min(low ?? end, end - SHORTEST), end];
}

function logarithmicRange(low, high) {
  if (low == null || high == null || high <= 0) return [1e-4, 1];
  return [10 ** Math.floor(Math.log10(Math.max(low, 1e-6))), 10 ** Math.ceil(Math.log10(Math.max(high, 1e-5)))];
}

const onlyPowersOfTen = (plot, splits) => splits.map((split) => (isPower(split) ? split : null));

const isPower = (split) => Math.abs(Math.log10(split) - Math.round(Math.log10(split))) < 1e-6;

const formatTick = (tick) => formatTime(new Date(tick * 1000)).split(" ").at(-1).replace(/:00$/, "");
