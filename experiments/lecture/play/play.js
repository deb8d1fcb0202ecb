// The widgets of the lecture's page. Each is an element with the attribute data-play, the name of
// the function below that makes it work, with its networks in a block of JSON (see __init__.py).
// What it shows it also leaves as numbers in the property `shown` of its element, for the tests.
// Words reach the page as text, never as markup.
"use strict";
(() => {
  // Arrays and networks

  const HALVES = Float32Array.from({ length: 65536 }, (_, bits) => {
    const [sign, exponent, fraction] = [bits >> 15 ? -1 : 1, (bits >> 10) & 31, bits & 1023];
    if (exponent === 0) return sign * fraction * 2 ** -24;
    if (exponent === 31) return fraction ? NaN : sign * Infinity;
    return sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
  });

  function decodeArray({ shape, dtype, base64 }) {
    const bytes = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
    const values = dtype === "float16"
      ? Float32Array.from(new Uint16Array(bytes.buffer), (bits) => HALVES[bits])
      : new Float32Array(bytes.buffer);
    return { shape, values };
  }

  const rowOf = ({ shape, values }, i) => values.subarray(i * shape[1], (i + 1) * shape[1]);

  // Returns h @ matrix, or h @ matrix.T.
  function multiply(h, { shape: [rows, columns], values }, isTransposed = false) {
    const out = new Float64Array(isTransposed ? rows : columns);
    for (let i = 0, at = 0; i < rows; i++, at += columns) {
      if (isTransposed) {
        let sum = 0;
        for (let j = 0; j < columns; j++) sum += h[j] * values[at + j];
        out[i] = sum;
      } else {
        const factor = h[i];
        for (let j = 0; j < columns; j++) out[j] += factor * values[at + j];
      }
    }
    return out;
  }

  const ACTIVATIONS = {
    linear: (value) => value,
    relu: (value) => Math.max(value, 0),
    sigmoid: (value) => 1 / (1 + Math.exp(-value)),
    tanh: Math.tanh,
  };

  // Returns encode and decode of a dense autoencoder, as jaxae.DenseAutoencoder computes them.
  function makeNetwork(arrays, about) {
    const own = (name) => arrays[`${about.name}/${name}`];
    const numbers = [0, 1, 2, 3].filter((i) => own(`encoder_bias_${i}`));
    const layersOf = (side) => numbers.map((i) => {
      const isTransposed = Boolean(about.tied) && side === "decoder";
      const kernel = isTransposed ? `encoder_kernel_${numbers.length - 1 - i}` : `${side}_kernel_${i}`;
      return { weights: own(kernel), bias: own(`${side}_bias_${i}`).values, isTransposed };
    });
    const makeStack = (layers, last) => (input) => layers.reduce((h, { weights, bias, isTransposed }, i) => {
      const activate = ACTIVATIONS[i < layers.length - 1 ? about.activation : last];
      return multiply(h, weights, isTransposed).map((value, j) => activate(value + bias[j]));
    }, input);
    const encode = makeStack(layersOf("encoder"), about.code_activation);
    const decode = makeStack(layersOf("decoder"), about.output_activation);
    return { about, own, encode, decode, reconstruct: (x) => decode(encode(x)) };
  }

  // Small mathematics

  const add = (a, b, factor = 1) => new Float64Array(a).map((value, i) => value + factor * b[i]);
  const dot = (a, b) => a.reduce((sum, value, i) => sum + value * b[i], 0);
  const norm = (a) => Math.sqrt(dot(a, a));
  const round = (value) => Number(value.toFixed(2));
  const squaredError = (a, b) => dot(add(a, b, -1), add(a, b, -1));
  const meanSquaredError = (a, b) => squaredError(a, b) / a.length;
  const clip = (value, low, high) => Math.min(high, Math.max(low, value));

  // Words: with the decimal point and the words of the page's language

  const { lang } = document.documentElement;
  const { format } = new Intl.NumberFormat(lang, { maximumSignificantDigits: 3, useGrouping: false });
  const digits = (value) => (Number.isInteger(value) ? String(value) : format(value));
  const translations = {}; // of the English texts below; none on an English page
  const say = (english, values = {}) => (translations[english] ?? english).replace(/\{(\w+)\}/g,
    (_, name) => (typeof values[name] === "number" ? digits(values[name]) : values[name]));
  const sayError = (error) => say("error {error}", { error });

  // Returns a generator of numbers in [0, 1), mulberry32: the same seed gives the same noise.
  function makeUniform(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) | 0;
      let t = Math.imul(state ^ (state >>> 15), 1 | state);
      t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
      return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
    };
  }

  const drawNormal = (draw) => Math.sqrt(-2 * Math.log(1 - draw())) * Math.cos(2 * Math.PI * draw());

  // How each kind of noise changes a pixel, and its highest level; the draws do not depend on the
  // level, so that an image changes smoothly as the level is dragged.
  const NOISES = {
    uniform: [2, (x, level, draw) => clip(x + level * (2 * draw() - 1), 0, 1)],
    gaussian: [1.2, (x, level, draw) => x + level * drawNormal(draw)],
    masking: [1, (x, level, draw) => (draw() < level ? 0 : x)],
    "salt-and-pepper": [1, (x, level, draw, u = draw()) => (u < level ? Number(u > level / 2) : x)],
  };

  // Returns the derivatives of an image along a shift down, a shift right and a rotation, as
  // numpy.gradient takes them.
  function imageTangents(x, [height, width, channels]) {
    const at = (row, column, c) => x[(row * width + column) * channels + c];
    const [down, right, turn] = [0, 0, 0].map(() => new Float64Array(x.length));
    const slope = (value, i, size, low = Math.max(i - 1, 0), high = Math.min(i + 1, size - 1)) =>
      (value(high) - value(low)) / (high - low);
    for (let k = 0; k < x.length; k++) {
      const [c, place] = [k % channels, Math.floor(k / channels)];
      const [row, column] = [Math.floor(place / width), place % width];
      down[k] = slope((i) => at(i, column, c), row, height);
      right[k] = slope((i) => at(row, i, c), column, width);
      turn[k] = (row - (height - 1) / 2) * right[k] - (column - (width - 1) / 2) * down[k];
    }
    return { "shift down": down, "shift right": right, rotation: turn };
  }

  // Returns the eigenvalues of a matrix that is symmetric and has none below 0, largest first; its
  // n * n numbers are overwritten. Householder's reduction to three diagonals, then bisection.
  function eigenvalues(a, n) {
    for (let k = 0; k < n - 2; k++) {
      const v = Float64Array.from({ length: n }, (_, i) => (i > k ? a[i * n + k] : 0));
      const length = norm(v);
      if (length === 0) continue;
      v[k + 1] += v[k + 1] > 0 ? length : -length;
      const square = dot(v, v);
      const p = multiply(v, { shape: [n, n], values: a }).map((value) => (2 * value) / square);
      const w = add(p, v, -dot(v, p) / square);
      for (let i = k; i < n; i++) {
        for (let j = k; j < n; j++) a[i * n + j] -= v[i] * w[j] + w[i] * v[j];
      }
    }
    const diagonal = Float64Array.from({ length: n }, (_, i) => a[i * n + i]);
    const squares = Float64Array.from({ length: n }, (_, i) => (i > 0 ? a[i * n + i - 1] ** 2 : 0));
    const countBelow = (value) => { // Sturm's count
      let [count, q] = [0, 1];
      for (let i = 0; i < n; i++) {
        q = diagonal[i] - value - squares[i] / (q || 1e-300);
        if (q < 0) count++;
      }
      return count;
    };
    return Array.from({ length: n }, (_, i) => {
      let [low, high] = [0, diagonal.reduce((sum, value) => sum + value)];
      for (let step = 0; step < 45; step++) {
        const middle = (low + high) / 2;
        if (countBelow(middle) > n - 1 - i) high = middle;
        else low = middle;
      }
      return (low + high) / 2;
    });
  }

  // Parts of a widget

  const ARROWS = { ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0] };
  const colourOf = (element, name) => getComputedStyle(element).getPropertyValue(name).trim();

  // Makes a canvas work with a pointer, `onPoint(x, y, isDown, isFirst)` with x and y from 0 to 1,
  // and with keys: `onArrow(dx, dy)`, and `onKey` by the name of the key.
  function listen(canvas, { onPoint, onArrow, onKey }) {
    const point = (event) => {
      const { left, top, width, height } = canvas.getBoundingClientRect();
      const [x, y] = [(event.clientX - left) / width, (event.clientY - top) / height];
      onPoint(x, y, event.buttons > 0, event.type === "pointerdown");
    };
    canvas.addEventListener("pointerdown", (event) => canvas.setPointerCapture(event.pointerId));
    for (const type of ["pointerdown", "pointermove"]) canvas.addEventListener(type, point);
    canvas.addEventListener("keydown", (event) => {
      if (event.key in ARROWS) onArrow(...ARROWS[event.key]);
      else if (event.key in onKey) onKey[event.key]();
      else return;
      event.preventDefault();
    });
  }

  // Draws pixels from low (black) to high (white) on a canvas of their size.
  function paint(canvas, pixels, [height, width, channels], low = 0, high = 1) {
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const image = new ImageData(width, height);
    for (let i = 0; i < width * height; i++) {
      for (let c = 0; c < 3; c++) {
        const value = pixels[i * channels + (channels >= 3 ? c : 0)];
        image.data[4 * i + c] = (255 * (value - low)) / (high - low); // the array clips and rounds
      }
      image.data[4 * i + 3] = 255;
    }
    canvas.getContext("2d").putImageData(image, 0, 0);
  }

  // Returns an object whose `pixels` are the image of the drawing pad: a test image, or drawn.
  function listenToPad(widget) {
    const { shape } = widget.about;
    const [height, width, channels] = shape;
    const { examples } = widget.arrays;
    const [pad, buttons] = [widget.part("pad"), [...widget.part("examples").children]];
    const input = { pixels: new Float64Array(height * width * channels) };
    const cursor = { x: width >> 1, y: height >> 1, isShown: false };
    let last = null;
    function show() {
      paint(pad, input.pixels, shape);
      if (!cursor.isShown) return;
      const context = pad.getContext("2d");
      Object.assign(context, { fillStyle: colourOf(pad, "--play-second"), globalAlpha: 0.6 });
      context.fillRect(cursor.x, cursor.y, 1, 1);
    }
    function change(pixels, chosen = null) {
      input.pixels = Float64Array.from(pixels);
      for (const button of buttons) button.setAttribute("aria-pressed", button === chosen);
      show();
      widget.update();
    }
    // Draws white along a line, with a brush whose rim is soft.
    function stroke([x0, y0], [x1, y1]) {
      const [radius, dx, dy] = [Math.max(0.6, width / 22), x1 - x0, y1 - y0];
      change(input.pixels.map((pixel, k) => {
        const place = Math.floor(k / channels);
        const [x, y] = [(place % width) - x0, Math.floor(place / width) - y0];
        const along = clip((x * dx + y * dy) / (dx * dx + dy * dy || 1), 0, 1);
        const ink = radius + 0.5 - Math.hypot(x - along * dx, y - along * dy);
        return Math.max(pixel, Math.min(1, ink));
      }));
    }
    const clear = () => change(input.pixels.map(() => 0));
    const draw = () => stroke([cursor.x, cursor.y], [cursor.x, cursor.y]);
    listen(pad, {
      onPoint(x, y, isDown, isFirst) {
        if (!isDown) return;
        const from = isFirst ? null : last;
        [last, cursor.isShown] = [[x * width - 0.5, y * height - 0.5], false];
        stroke(from ?? last, last);
      },
      onArrow(dx, dy) {
        const [x, y] = [clip(cursor.x + dx, 0, width - 1), clip(cursor.y + dy, 0, height - 1)];
        Object.assign(cursor, { x, y, isShown: true });
        show();
      },
      onKey: { " ": draw, Enter: draw, Delete: clear, Backspace: clear },
    });
    widget.part("clear").addEventListener("click", () => { clear(); pad.focus(); });
    buttons.forEach((button, i) => {
      paint(button.firstChild, rowOf(examples, i), shape);
      button.addEventListener("click", () => change(rowOf(examples, i), button));
    });
    input.pixels.set(rowOf(examples, 0));
    show();
    return input;
  }

  // Widgets: each returns the function that computes and shows; it is called after every input

  function denoise(widget) {
    const networks = widget.networks.filter(({ about }) => about.code_dim);
    const [wanted] = networks;
    networks.sort(({ about: a }, { about: b }) => a.code_dim - b.code_dim || a.noise_level - b.noise_level);
    const input = listenToPad(widget);
    let seed = 1;
    const [kind, level] = [widget.part("kind"), widget.slider("level", digits)];
    kind.addEventListener("input", () => { [level.max] = NOISES[kind.value]; level.show(); });
    [level.max] = NOISES[kind.value];
    level.set(wanted.about.noise_level);
    const which = widget.slider("network", (i) => {
      const { code_dim: dim, noise_level: noise } = networks[i].about;
      return say("{dim} (trained with {kind} noise {noise})", { dim, kind: kind[0].text, noise });
    });
    which.set(networks.indexOf(wanted));
    widget.part("again").addEventListener("click", () => { seed++; widget.update(); });
    const [clean, noisy, denoised, mapped] = widget.pictures("clean", "corrupted", "denoised", "linear");

    return () => {
      const { about, reconstruct } = networks[which.value];
      const [x, draw, change] = [input.pixels, makeUniform(seed), NOISES[kind.value][1]];
      const corrupted = x.map((value) => change(value, Number(level.value), draw));
      const output = reconstruct(corrupted);
      // The first numbers of its code are the best code of any lower rank.
      const best = widget.networks.find(({ about: { rank, noise_level: noise } }) =>
        rank && noise === about.noise_level);
      const rank = Math.min(best?.about.rank ?? 0, about.code_dim);
      const linear = best ? best.decode(best.encode(corrupted).fill(0, rank)) : null;
      const [before, after, error] = [corrupted, output, linear ?? x].map((y) => meanSquaredError(y, x));
      clean(x);
      noisy(corrupted, sayError(before));
      denoised(output, sayError(after));
      mapped(linear ?? x.map(() => 0.5),
        linear ? say("error {error}, rank {rank}", { error, rank }) : say("not kept"));
      widget.tell(say("Squared error per pixel: noisy image {before}, denoised {after}.", { before, after }),
        linear ? say("The best linear map leaves {error}.", { error }) : "");
      return { network: about.name, seed, clean: x, corrupted, denoised: output, linear, rank };
    };
  }

  function field(widget) {
    const half = widget.about.half_width;
    const [RING, STEPS, GRID] = [16, 30, 15];
    const [canvas, density] = [widget.part("plane"), widget.part("density")];
    const context = canvas.getContext("2d");
    const levels = () => widget.networks.filter(({ about }) => about.density === density.value);
    const level = widget.slider("level", (i) => 
      say("standard deviation {stddev}", { stddev: levels()[i].about.noise_stddev }));
    let [nodes, at, start] = [[], [0, 0], [0.88 * half, 0.82 * half]];
    function choose() { // the level in the middle, and a point of the data
      const array = widget.arrays[`nodes/${density.value}`];
      nodes = Array.from({ length: array.shape[0] }, (_, i) => [...rowOf(array, i)]);
      at = nodes[Math.floor(nodes.length / 3)];
      level.max = levels().length - 1;
      level.set(levels().length >> 1);
    }
    density.addEventListener("input", choose);
    choose();
    const go = () => { start = at; widget.update(); };
    listen(canvas, {
      onPoint(x, y, isDown) {
        at = [clip(2 * x - 1, -1, 1) * half, clip(1 - 2 * y, -1, 1) * half];
        if (isDown) start = at;
        widget.update();
      },
      onArrow(dx, dy) {
        at = [at[0] + 0.03 * half * dx, at[1] - 0.03 * half * dy].map((value) => clip(value, -half, half));
        widget.update();
      },
      onKey: { Enter: go, " ": go },
    });
    // E[x | y] - y: the data are a mixture of Gaussians with equal weights.
    function exactField({ spread, noise_stddev: stddev }, y) {
      const variance = spread ** 2 + stddev ** 2;
      const exponents = nodes.map(([x0, x1]) => -((x0 - y[0]) ** 2 + (x1 - y[1]) ** 2) / (2 * variance));
      const most = Math.max(...exponents);
      const weights = exponents.map((exponent) => Math.exp(exponent - most));
      const centre = (k) => dot(weights, nodes.map((node) => node[k])) / dot(weights, nodes.map(() => 1));
      return [0, 1].map((k) => (1 - spread ** 2 / variance) * (centre(k) - y[k]));
    }
    function walk(fieldAt) {
      const path = [Float64Array.from(start)];
      for (let i = 0; i < STEPS; i++) path.push(add(path[i], fieldAt(path[i])));
      return path;
    }
    const scale = canvas.width / 2 / half;
    const place = ([x, y]) => [(x + half) * scale, (half - y) * scale];
    function drawLine(colour, points, width, dash = []) {
      context.beginPath();
      points.forEach((point) => context.lineTo(...place(point)));
      Object.assign(context, { strokeStyle: colourOf(canvas, colour), lineWidth: width });
      context.setLineDash(dash);
      context.stroke();
    }
    function drawDiscs(colour, centres, radius, alpha = 1) {
      Object.assign(context, { fillStyle: colourOf(canvas, colour), globalAlpha: alpha });
      for (const centre of centres) {
        context.beginPath();
        context.arc(...place(centre), radius * scale, 0, 2 * Math.PI);
        context.fill();
      }
      context.globalAlpha = 1;
    }
    function drawMoves(colour, moves, width) {
      moves.forEach((move) => drawLine(colour, move, width));
      drawDiscs(colour, moves.map(([, to]) => to), width / 120);
    }

    return () => {
      const network = levels()[level.value];
      const { about, reconstruct } = network;
      const [learned, exact] = [(y) => add(reconstruct(y), y, -1), (y) => exactField(about, y)];
      const line = Array.from({ length: GRID }, (_, i) => ((2 * i) / (GRID - 1) - 1) * half * 0.94);
      network.arrows ??= line.flatMap((x) => line.map((y) => [[x, y], add([x, y], learned([x, y]), 1 / 3)]));
      const ring = Array.from({ length: RING }, (_, i) => {
        const angle = (2 * Math.PI * i) / RING;
        return add(at, [Math.cos(angle), Math.sin(angle)], 2 * about.noise_stddev);
      });
      const moved = ring.map(reconstruct);
      const [learnedPath, exactPath] = [walk(learned), walk(exact)];
      context.clearRect(0, 0, canvas.width, canvas.height);
      drawDiscs("--play-soft", [at], 2 * about.noise_stddev, 0.35);
      if (about.spread) drawDiscs("--play-ink", nodes, about.spread, 0.2);
      else drawLine("--play-ink", nodes, 3); // a curve
      drawMoves("--play-soft", network.arrows, 1.5);
      drawMoves("--play-first", ring.map((point, i) => [point, moved[i]]), 2);
      drawLine("--play-first", learnedPath, 4);
      drawLine("--play-second", exactPath, 4, [10, 8]);
      drawDiscs("--play-first", [start], 0.04);
      for (const arm of [[0.1, 0], [0, 0.1]]) drawLine("--play-ink", [add(at, arm, -1), add(at, arm)], 2);
      const here = { learned: learned(at), exact: exact(at) };
      const pair = ([x, y]) => say("({x}, {y})", { x: round(x), y: round(y) });
      widget.tell(say("At {at} the learned field is {learned}, the exact one {exact}.",
        { at: pair(at), learned: pair(here.learned), exact: pair(here.exact) }),
      say("The walk from {start} ends at {learned}, along the exact field at {exact}.",
        { start: pair(start), learned: pair(learnedPath[STEPS]), exact: pair(exactPath[STEPS]) }));
      return { network: about.name, at, start, ...here, ring, moved, learnedPath, exactPath };
    };
  }

  function contract(widget) {
    const { networks } = widget;
    const input = listenToPad(widget);
    const sayLambda = ({ weight }) => (weight ? digits(weight) : say("0 (plain autoencoder)"));
    const which = widget.slider("network", (i) => sayLambda(networks[i].about));
    which.set(networks.length >> 1);
    const length = widget.slider("length", (share) =>
      say("{percent} % of the image's length", { percent: Math.round(100 * share) }));
    const [direction, bars] = [widget.part("direction"), widget.part("bars")];
    const [clean, returned, pushed, after] = widget.pictures("clean", "returned", "pushed", "after");
    // The singular values of d code / d x, where the code is a sigmoid of x @ weights + bias.
    function singularValues(network, code) {
      const weights = network.own("encoder_kernel_0");
      const [d, k] = weights.shape;
      const column = (i) => Float64Array.from({ length: d }, (_, row) => weights.values[row * k + i]);
      network.gram ??= Float64Array.from([...code.keys()].flatMap((i) => [...multiply(column(i), weights)]));
      const slopes = code.map((z) => z * (1 - z));
      const scaled = network.gram.map((value, at) => value * slopes[Math.floor(at / k)] * slopes[at % k]);
      return eigenvalues(scaled, k).slice(0, d).map((value) => Math.sqrt(Math.max(value, 0)));
    }

    return () => {
      const network = networks[which.value];
      const [x, draw] = [input.pixels, makeUniform(1)];
      const code = network.encode(x);
      const reconstruction = network.decode(code);
      const along = { ...imageTangents(x, widget.about.shape), noise: x.map(() => drawNormal(draw)) };
      const [pushes, moves] = [{}, {}];
      for (const [name, way] of Object.entries(along)) {
        const distance = Number(length.value) * norm(x);
        pushes[name] = add(x, way, distance / (norm(way) || 1));
        const [change, push] = [add(network.encode(pushes[name]), code, -1), add(pushes[name], x, -1)];
        moves[name] = norm(change) / (norm(push) || 1);
        widget.part(`moves-${name}`).textContent = digits(moves[name]);
      }
      const values = singularValues(network, code);
      const count = values.filter((value) => value > 1).length;
      const above = say("{count} of {all} singular values are above 1, the largest is {largest}.",
        { count, all: values.length, largest: values[0] });
      const top = 1.05 * Math.max(1, values[0]);
      bars.style.setProperty("--play-one", `${100 / top}%`);
      bars.replaceChildren(...Array.from(values, (value) => {
        const bar = document.createElement("i");
        bar.style.height = `${(100 * value) / top}%`;
        return bar;
      }));
      bars.setAttribute("aria-label", above);
      clean(x);
      returned(reconstruction, sayError(meanSquaredError(reconstruction, x)));
      pushed(pushes[direction.value], direction.selectedOptions[0].text);
      after(network.reconstruct(pushes[direction.value]));
      const { "shift right": shift, noise } = moves;
      widget.tell(say("Lambda: {lambda}.", { lambda: sayLambda(network.about) }), above,
        say("The code moves by {shift} of a shift right and by {noise} of noise.", { shift, noise }));
      return { network: network.about.name, clean: x, code, reconstruction, values, moves, pushes };
    };
  }

  function sparse(widget) {
    const mean = widget.arrays.mean.values;
    const off = new Set();
    let [fed, ranked] = ["", []];
    const input = listenToPad(widget);
    const [which, list] = [widget.part("network"), widget.part("units")];
    const kept = widget.slider("kept", String);
    kept.addEventListener("input", () => ranked.forEach((unit, i) =>
      (i < kept.value ? off.delete(unit) : off.add(unit))));
    const [clean, returned] = widget.pictures("clean", "returned");
    function filterOf(network, unit) { // it has norm 1
      const row = rowOf(network.own("decoder_kernel_0"), unit);
      const length = Math.max(norm(row), 1e-12);
      return row.map((value) => value / length);
    }
    function makeButton(unit, activation, filter) {
      const button = widget.part("unit").content.firstElementChild.cloneNode(true);
      const most = filter.reduce((a, value) => Math.max(a, Math.abs(value)), 0);
      paint(button.firstChild, filter, widget.about.shape, -most, most);
      button.append(digits(activation));
      button.setAttribute("aria-label", say("unit {unit}, activation {activation}", { unit, activation }));
      button.addEventListener("click", () => { if (!off.delete(unit)) off.add(unit); widget.update(); });
      return button;
    }

    return () => {
      const network = widget.networks[which.selectedIndex];
      const x = input.pixels;
      const code = network.encode(add(x, mean, -1));
      const now = `${which.value} ${x.join()}`;
      if (now !== fed) { // another image or network: all of its units are on
        fed = now;
        ranked = [...code.keys()].filter((unit) => code[unit] > 0).sort((a, b) => code[b] - code[a]);
        off.clear();
        kept.max = ranked.length;
        list.replaceChildren(...ranked.slice(0, 32).map((unit) =>
          makeButton(unit, code[unit], filterOf(network, unit))));
      }
      const on = ranked.filter((unit) => !off.has(unit));
      kept.set(on.length);
      [...list.children].forEach((button, i) => button.setAttribute("aria-pressed", !off.has(ranked[i])));
      const reconstruction = on.reduce((sum, unit) => add(sum, filterOf(network, unit), code[unit]),
        add(mean, network.own("decoder_bias_0").values));
      const error = meanSquaredError(reconstruction, x);
      clean(x);
      returned(reconstruction, sayError(error));
      widget.tell(say("{fire} of {all} units fire, {on} of them are on.",
        { fire: ranked.length, all: code.length, on: on.length }),
      say("Squared error per pixel: {error}.", { error }));
      return { network: network.about.name, clean: x, code, on, reconstruction };
    };
  }

  function copy(widget) {
    const [mean, span, scale] = [widget.arrays.mean.values, widget.arrays.span, widget.about.scale];
    const input = listenToPad(widget);
    const [kind, isShuffled] = [widget.part("kind"), widget.part("shuffled")];
    const [fed] = widget.pictures("input");
    function shuffle(pixels) { // always in the same way
      const keys = pixels.map(makeUniform(1));
      const order = [...keys.keys()].sort((i, j) => keys[i] - keys[j]);
      return pixels.map((_, i) => pixels[order[i]]);
    }

    return () => {
      const pixels = isShuffled.checked ? shuffle(input.pixels) : input.pixels;
      // In the coordinates of the networks, and without what no training image has.
      const centred = pixels.map((value, i) => (value - mean[i]) / scale);
      const row = multiply(multiply(centred, span), span, true);
      const toPixels = (values) => values.map((value, i) => value * scale + mean[i]);
      fed(toPixels(row));
      const [outputs, words] = [{}, []];
      for (const { about } of widget.networks) widget.part(about.method).hidden = true;
      for (const { about, reconstruct } of widget.networks) {
        if (about.code_activation !== kind.value) continue;
        widget.part(about.method).hidden = false;
        outputs[about.method] = reconstruct(row);
        const share = squaredError(outputs[about.method], row) / dot(row, row);
        const change = say("changes {percent} %", { percent: 100 * share });
        const [show] = widget.pictures(about.method);
        show(toPixels(outputs[about.method]), change);
        words.push(`${show.title}: ${change}.`);
      }
      widget.tell(say("Squared change, relative to the squared length of the input."), ...words);
      return { kind: kind.value, pixels, row, outputs };
    };
  }

  // The page

  const WIDGETS = { denoise, field, contract, sparse, copy };
  function start(root) {
    const { about, words, arrays: encoded } = JSON.parse(root.querySelector("script").textContent);
    Object.assign(translations, words);
    const arrays = Object.fromEntries(
      Object.entries(encoded).map(([name, array]) => [name, decodeArray(array)]));
    const part = (name) => root.querySelector(`[data-part="${name}"]`);
    let [waiting, compute] = [0, null];
    const widget = {
      about, arrays, part,
      networks: about.networks.map((own) => makeNetwork(arrays, { ...about, ...own })),
      slider(name, show) { // an input whose value is shown in words
        const [input, note] = [part(name), part(name).parentElement.nextElementSibling];
        input.show = () => {
          note.textContent = show(Number(input.value));
          input.setAttribute("aria-valuetext", note.textContent);
        };
        input.set = (value) => { input.value = value; input.show(); };
        input.addEventListener("input", input.show);
        input.show();
        return input;
      },
      pictures: (...names) => names.map((name) => { // functions that show pixels, with some words
        const [canvas, title, note] = part(name).querySelectorAll("canvas, .play-title, .play-note");
        const show = (pixels, words = "") => {
          paint(canvas, pixels, about.shape);
          note.textContent = words;
          canvas.setAttribute("aria-label", words ? `${show.title}, ${words}` : show.title);
        };
        show.title = title.textContent;
        return show;
      }),
      tell(...texts) { // when the hand rests, so that a screen reader is not interrupted at every step
        clearTimeout(waiting);
        waiting = setTimeout(() => root.querySelector(".play-says").replaceChildren(texts.join(" ")), 250);
      },
      update() {
        const begin = performance.now();
        root.shown = compute();
        root.shown.milliseconds = performance.now() - begin;
      },
    };
    root.querySelector(".play-stage").hidden = false;
    compute = WIDGETS[root.dataset.play](widget);
    widget.update();
    root.addEventListener("input", widget.update);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", widget.update);
  }

  document.addEventListener("DOMContentLoaded", () =>
    document.querySelectorAll("[data-play]").forEach(start));
})();
