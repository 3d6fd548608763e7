/* Local response normalisation across channels, forward and backward, one pass over memory each.
 *
 * Rows are pixels, channels are contiguous (channels_last). Arithmetic is float32 for both storage types (float32 and
 * bfloat16). Each row is computed separately in a fixed order, and contraction is off (see pyproject.toml), so the bits
 * depend neither on the number of threads nor on the vector width.
 *
 * The exponent is the paper's 0.75. Newton's method gives y = d^-1/4; then y^3 = d^-0.75 and y^4 = 1 / d.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))
#define MOST_CHANNELS 4096
#define MOST_WINDOW 31

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif

typedef struct {
    const void *input, *grad; /* grad is NULL in the forward pass */
    void *output;             /* the normalised rows, or the gradient of the input */
    Py_ssize_t first, last;   /* rows */
    int channels, half, is_bf16, rectify;
    float scale, k, slope;    /* alpha / n, k, 2 * beta * alpha / n */
} Work;

static inline float widen(uint16_t stored) {
    uint32_t bits = (uint32_t)stored << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Rounds to nearest, ties to even. A NaN stays a NaN: rounding its bits could give a number and hide a divergence. */
static inline uint16_t narrow(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

INLINE void load(float *to, const void *from, Py_ssize_t at, int items, int is_bf16) {
    if (is_bf16) {
        const uint16_t *stored = (const uint16_t *)from + at;
        for (int i = 0; i < items; i++) to[i] = widen(stored[i]);
    } else {
        memcpy(to, (const float *)from + at, sizeof(float) * (size_t)items);
    }
}

INLINE void store(void *to, Py_ssize_t at, const float *from, int items, int is_bf16) {
    if (is_bf16) {
        uint16_t *stored = (uint16_t *)to + at;
        for (int i = 0; i < items; i++) stored[i] = narrow(from[i]);
    } else {
        memcpy((float *)to + at, from, sizeof(float) * (size_t)items);
    }
}

/* Returns d^-1/4 for positive d. NaN and infinity lead to a result that is not finite. The first guess is within 4 %, and
 * each step squares the error. */
INLINE float inverse_fourth_root(float d) {
    uint32_t bits;
    float y;
    memcpy(&bits, &d, sizeof bits);
    bits = 0x4f58cae5u - (bits >> 2);
    memcpy(&y, &bits, sizeof y);
    for (int step = 0; step < 3; step++) {
        const float square = y * y;
        y = y * (1.25f - 0.25f * d * (square * square));
    }
    return y;
}

/* sums[c] = terms[c - half] + ... + terms[c + half] in each row of a block. `terms` has `half` zeros around each row. */
INLINE void window(float *sums, const float *terms, int rows, const Work *work) {
    const int channels = work->channels, half = work->half, stride = channels + half;
    for (int r = 0; r < rows; r++, sums += channels, terms += stride) {
        if (half == 2) { /* the paper's n = 5, in one pass */
            for (int c = 0; c < channels; c++)
                sums[c] = (((terms[c - 2] + terms[c - 1]) + terms[c]) + terms[c + 1]) + terms[c + 2];
            continue;
        }
        for (int c = 0; c < channels; c++) sums[c] = 0.0f;
        for (int shift = -half; shift <= half; shift++)
            for (int c = 0; c < channels; c++) sums[c] += terms[c + shift];
    }
}

/* Each step handles all rows of a block, which fits in the L1 cache. Row by row, reading a window would wait for the
 * stores of its terms (2.4 times as long at 32 channels). `half` zeros separate the rows in `terms`, so that a window
 * never reads the next row. */
#define BLOCK 1024
#define LARGEST (BLOCK + MOST_CHANNELS)

FOR_EACH_CPU static void normalise(const Work *work) {
    float values[LARGEST], sums[LARGEST], padded[LARGEST + 2 * MOST_WINDOW];
    const int channels = work->channels, stride = channels + work->half;
    const int most_rows = stride < BLOCK ? BLOCK / stride : 1;
    float *const terms = padded + work->half;
    memset(padded, 0, sizeof padded);
    for (Py_ssize_t first = work->first; first < work->last; first += most_rows) {
        const int rows = work->last - first < most_rows ? (int)(work->last - first) : most_rows;
        const int items = rows * channels;
        load(values, work->input, first * channels, items, work->is_bf16);
        if (work->rectify) /* this comparison keeps a NaN */
            for (int i = 0; i < items; i++) values[i] = values[i] < 0.0f ? 0.0f : values[i];
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < channels; c++)
                terms[r * stride + c] = values[r * channels + c] * values[r * channels + c];
        window(sums, terms, rows, work);
        for (int i = 0; i < items; i++) {
            const float y = inverse_fourth_root(work->k + work->scale * sums[i]);
            values[i] *= y * y * y;
        }
        store(work->output, first * channels, values, items, work->is_bf16);
    }
}

/* dL/dx_i = g_i d_i^-b - 2 a b / n * x_i * sum over the window of g_j x_j d_j^(-b-1). */
FOR_EACH_CPU static void differentiate(const Work *work) {
    float values[LARGEST], grads[LARGEST], sums[LARGEST], padded[LARGEST + 2 * MOST_WINDOW];
    const int channels = work->channels, stride = channels + work->half;
    const int most_rows = stride < BLOCK ? BLOCK / stride : 1;
    float *const terms = padded + work->half;
    memset(padded, 0, sizeof padded);
    for (Py_ssize_t first = work->first; first < work->last; first += most_rows) {
        const int rows = work->last - first < most_rows ? (int)(work->last - first) : most_rows;
        const int items = rows * channels;
        load(values, work->input, first * channels, items, work->is_bf16);
        load(grads, work->grad, first * channels, items, work->is_bf16);
        if (work->rectify)
            for (int i = 0; i < items; i++) {
                grads[i] = values[i] <= 0.0f ? 0.0f : grads[i];
                values[i] = values[i] < 0.0f ? 0.0f : values[i];
            }
        for (int r = 0; r < rows; r++)
            for (int c = 0; c < channels; c++)
                terms[r * stride + c] = values[r * channels + c] * values[r * channels + c];
        window(sums, terms, rows, work);
        for (int i = 0; i < items; i++) {
            const float y = inverse_fourth_root(work->k + work->scale * sums[i]), square = y * y;
            grads[i] *= square * y;
            sums[i] = grads[i] * values[i] * (square * square);
        }
        for (int r = 0; r < rows; r++)
            memcpy(terms + r * stride, sums + r * channels, sizeof(float) * (size_t)channels);
        window(sums, terms, rows, work);
        for (int i = 0; i < items; i++) grads[i] -= work->slope * values[i] * sums[i];
        store(work->output, first * channels, grads, items, work->is_bf16);
    }
}

/* Splits the rows evenly among OpenMP's threads. If torch loads the same libgomp, they are torch's own threads, which are
 * already running. */
static void run(const Work *whole, Py_ssize_t rows, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
    for (int t = 0; t < threads; t++) {
        Work share = *whole;
        share.first = rows * t / threads;
        share.last = rows * (t + 1) / threads;
        if (share.grad)
            differentiate(&share);
        else
            normalise(&share);
    }
}

PyDoc_STRVAR(apply_doc, "apply(input, grad, output, rows, channels, size, is_bf16, rectify, scale, k, threads)\n\n"
    "Normalises `rows` rows of `channels` values at `input`, or computes the gradient if `grad` is not 0.\n"
    "Addresses must be valid, of contiguous bfloat16 (`is_bf16`) or float32.");

static PyObject *apply(PyObject *self, PyObject *args) {
    unsigned long long input, grad, output;
    Py_ssize_t rows;
    int channels, size, is_bf16, rectify, threads;
    double scale, k;
    (void)self;
    if (!PyArg_ParseTuple(args, "KKKniippddi", &input, &grad, &output, &rows, &channels, &size, &is_bf16, &rectify,
                          &scale, &k, &threads))
        return NULL;
    if (rows < 0 || channels < 1 || channels > MOST_CHANNELS || size < 1 || size > MOST_WINDOW || threads < 1) {
        PyErr_SetString(PyExc_ValueError, "rows, channels, size or threads out of range");
        return NULL;
    }
    Work whole = {.input = (const void *)(uintptr_t)input, .grad = (const void *)(uintptr_t)grad,
                  .output = (void *)(uintptr_t)output, .channels = channels, .half = size / 2, .is_bf16 = is_bf16,
                  .rectify = rectify, .scale = (float)scale, .k = (float)k, .slope = (float)(2.0 * 0.75 * scale)};
    Py_BEGIN_ALLOW_THREADS
    run(&whole, rows, threads);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {{"apply", apply, METH_VARARGS, apply_doc}, {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "_lrn", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit__lrn(void) {
    PyObject *created = PyModule_Create(&module);
    if (created == NULL) return NULL;
    if (PyModule_AddIntConstant(created, "MOST_CHANNELS", MOST_CHANNELS) < 0
        || PyModule_AddIntConstant(created, "MOST_WINDOW", MOST_WINDOW) < 0) {
        Py_DECREF(created);
        return NULL;
    }
    return created;
}
