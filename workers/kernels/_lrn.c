/* Local response normalisation across channels, forward and backward, one pass over memory each.
 *
 * Rows are pixels, channels are contiguous (channels_last). Arithmetic is float32 whatever is stored (float32 or
 * bfloat16), every row is computed alone and in a fixed order: the bits depend neither on the number of threads nor on
 * the vector width, since contraction is off (see pyproject.toml) and square root and division are exact by IEEE 754.
 * The exponent is the paper's 0.75: d^-0.75 = 1 / (sqrt(d) * sqrt(sqrt(d))).
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <pthread.h>
#include <stdint.h>
#include <string.h>

#define MOST_CHANNELS 4096
#define MOST_WINDOW 31
#define MOST_THREADS 256

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

/* To nearest, ties to even. A NaN stays one: rounding could carry it into a number and hide a divergence. */
static inline uint16_t narrow(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    return (uint16_t)((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded);
}

static inline __attribute__((always_inline)) void load(float *row, const void *from, Py_ssize_t at, const Work *work) {
    if (work->is_bf16) {
        const uint16_t *stored = (const uint16_t *)from + at;
        for (int c = 0; c < work->channels; c++) row[c] = widen(stored[c]);
    } else {
        memcpy(row, (const float *)from + at, sizeof(float) * (size_t)work->channels);
    }
}

static inline __attribute__((always_inline)) void store(void *to, Py_ssize_t at, const float *row, const Work *work) {
    if (work->is_bf16) {
        uint16_t *stored = (uint16_t *)to + at;
        for (int c = 0; c < work->channels; c++) stored[c] = narrow(row[c]);
    } else {
        memcpy((float *)to + at, row, sizeof(float) * (size_t)work->channels);
    }
}

/* sums[c] = terms[c - half] + … + terms[c + half]; `terms` has `half` zeros on either side. */
static inline __attribute__((always_inline)) void window(float *sums, const float *terms, int channels, int half) {
    if (half == 2) { /* the paper's n = 5, in one pass */
        for (int c = 0; c < channels; c++)
            sums[c] = (((terms[c - 2] + terms[c - 1]) + terms[c]) + terms[c + 1]) + terms[c + 2];
        return;
    }
    for (int c = 0; c < channels; c++) sums[c] = 0.0f;
    for (int shift = -half; shift <= half; shift++)
        for (int c = 0; c < channels; c++) sums[c] += terms[c + shift];
}

FOR_EACH_CPU static void normalise(const Work *work) {
    float values[MOST_CHANNELS], sums[MOST_CHANNELS], padded[MOST_CHANNELS + 2 * MOST_WINDOW];
    const int channels = work->channels;
    float *terms = padded + work->half;
    memset(padded, 0, sizeof(float) * (size_t)(channels + 2 * work->half));
    for (Py_ssize_t r = work->first; r < work->last; r++) {
        const Py_ssize_t at = r * channels;
        load(values, work->input, at, work);
        if (work->rectify) /* written so that a NaN passes */
            for (int c = 0; c < channels; c++) values[c] = values[c] < 0.0f ? 0.0f : values[c];
        for (int c = 0; c < channels; c++) terms[c] = values[c] * values[c];
        window(sums, terms, channels, work->half);
        for (int c = 0; c < channels; c++) {
            const float root = sqrtf(work->k + work->scale * sums[c]);
            values[c] = values[c] / (root * sqrtf(root));
        }
        store(work->output, at, values, work);
    }
}

/* dL/dx_i = g_i d_i^-b - 2 a b / n * x_i * sum over the window of g_j x_j d_j^(-b-1). */
FOR_EACH_CPU static void differentiate(const Work *work) {
    float values[MOST_CHANNELS], grads[MOST_CHANNELS], sums[MOST_CHANNELS], padded[MOST_CHANNELS + 2 * MOST_WINDOW];
    float signs[MOST_CHANNELS];
    const int channels = work->channels;
    float *terms = padded + work->half;
    memset(padded, 0, sizeof(float) * (size_t)(channels + 2 * work->half));
    for (Py_ssize_t r = work->first; r < work->last; r++) {
        const Py_ssize_t at = r * channels;
        load(values, work->input, at, work);
        load(grads, work->grad, at, work);
        if (work->rectify)
            for (int c = 0; c < channels; c++) {
                signs[c] = values[c] <= 0.0f ? 0.0f : 1.0f;
                values[c] = values[c] < 0.0f ? 0.0f : values[c];
            }
        for (int c = 0; c < channels; c++) terms[c] = values[c] * values[c];
        window(sums, terms, channels, work->half);
        for (int c = 0; c < channels; c++) {
            const float root = sqrtf(work->k + work->scale * sums[c]), fourth_root = sqrtf(root);
            const float factor = 1.0f / (root * fourth_root), inverse_root = factor * fourth_root;
            grads[c] *= factor;
            terms[c] = grads[c] * values[c] * (inverse_root * inverse_root);
        }
        window(sums, terms, channels, work->half);
        for (int c = 0; c < channels; c++) grads[c] -= work->slope * values[c] * sums[c];
        if (work->rectify)
            for (int c = 0; c < channels; c++) grads[c] = signs[c] == 0.0f ? 0.0f : grads[c];
        store(work->output, at, grads, work);
    }
}

static void *run(void *work) {
    if (((const Work *)work)->grad)
        differentiate(work);
    else
        normalise(work);
    return NULL;
}

/* Splits the rows among threads, this one included; a thread that cannot be started has its share done here. */
static void run_all(const Work *whole, Py_ssize_t rows, int threads) {
    Work own = *whole, shares[MOST_THREADS];
    pthread_t started[MOST_THREADS];
    int is_running[MOST_THREADS] = {0};
    own.first = 0;
    own.last = rows / threads;
    for (int t = 1; t < threads; t++) {
        shares[t] = *whole;
        shares[t].first = rows * t / threads;
        shares[t].last = rows * (t + 1) / threads;
        is_running[t] = pthread_create(&started[t], NULL, run, &shares[t]) == 0;
    }
    run(&own);
    for (int t = 1; t < threads; t++) {
        if (is_running[t])
            pthread_join(started[t], NULL);
        else
            run(&shares[t]);
    }
}

PyDoc_STRVAR(apply_doc, "apply(input, grad, output, rows, channels, size, is_bf16, rectify, scale, k, threads)\n\n"
    "Normalises `rows` rows of `channels` values at the address `input`, or, where `grad` is not 0, gives the gradient.\n"
    "Addresses are of contiguous bfloat16 (`is_bf16`) or float32; the caller answers for them.");

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
    run_all(&whole, rows, threads < MOST_THREADS ? threads : MOST_THREADS);
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
