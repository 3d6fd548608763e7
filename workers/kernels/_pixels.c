/* Reflects RGB images and turns their bytes into floats, byte · scale + offset, in one pass over memory.
 *
 * Product and sum are rounded one after the other (-ffp-contract=off), as torch's two operators round them.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif

typedef struct {
    const uint8_t *pixels; /* [images][height][width][3] */
    const uint8_t *flips;  /* [images], whether an image is reflected left to right; NULL for none */
    const float *scale;    /* [3] */
    const float *offsets;  /* [images][3] */
    float *output;         /* like pixels */
    Py_ssize_t images, height, width;
} Work;

/* A loop of its own, because inside another the compiler does not vectorise it. */
FOR_EACH_CPU static void to_floats(const uint8_t *restrict row, Py_ssize_t count, const float *restrict scale,
                                   const float *restrict offset, float *restrict output) {
    for (Py_ssize_t i = 0; i < count; i++) output[i] = (float)row[i] * scale[i] + offset[i];
}

/* Reflects one row of pixels, four bytes at a time; `reflected` has room for a byte more. */
static void reflect(const uint8_t *row, Py_ssize_t width, uint8_t *reflected) {
    /* There may be no memory after the last pixel. */
    memcpy(reflected, row + (width - 1) * 3, 3);
    for (Py_ssize_t x = 1; x < width; x++) memcpy(reflected + x * 3, row + (width - 1 - x) * 3, 4);
}

static void repeat(const float *of_channels, Py_ssize_t width, float *row) {
    for (Py_ssize_t i = 0; i < width * 3; i++) row[i] = of_channels[i % 3];
}

/* Returns 0 if there is no memory for the rows that a thread needs. */
static int turn(const Work *work, Py_ssize_t first, Py_ssize_t last) {
    const Py_ssize_t count = work->width * 3;
    float *scale = malloc((size_t)count * 2 * sizeof(float) + (size_t)count + 1);
    if (!scale) return 0;
    float *offset = scale + count;
    uint8_t *reflected = (uint8_t *)(offset + count);
    repeat(work->scale, work->width, scale);
    for (Py_ssize_t image = first; image < last; image++) {
        repeat(work->offsets + image * 3, work->width, offset);
        for (Py_ssize_t y = 0; y < work->height; y++) {
            const Py_ssize_t place = (image * work->height + y) * count;
            const uint8_t *row = work->pixels + place;
            if (work->flips && work->flips[image]) {
                reflect(row, work->width, reflected);
                row = reflected;
            }
            to_floats(row, count, scale, offset, work->output + place);
        }
    }
    free(scale);
    return 1;
}

/* Splits the images evenly among OpenMP's threads, which are torch's own if both load the same libgomp. */
static int run(const Work *work, int threads) {
    int enough = 1;
#pragma omp parallel for num_threads(threads) schedule(static, 1) reduction(&& : enough)
    for (int t = 0; t < threads; t++) enough = enough && turn(work, work->images * t / threads, work->images * (t + 1) / threads);
    return enough;
}

static PyObject *apply(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned long long pixels, flips, scale, offsets, output;
    Work work;
    int threads, enough;
    if (!PyArg_ParseTuple(arguments, "KKKKKnnni", &pixels, &flips, &scale, &offsets, &output, &work.images, &work.height,
                          &work.width, &threads))
        return NULL;
    if (work.images < 0 || work.height < 1 || work.width < 1 || threads < 1) {
        PyErr_SetString(PyExc_ValueError, "images, height, width or threads out of range");
        return NULL;
    }
    work.pixels = (const uint8_t *)(uintptr_t)pixels;
    work.flips = (const uint8_t *)(uintptr_t)flips;
    work.scale = (const float *)(uintptr_t)scale;
    work.offsets = (const float *)(uintptr_t)offsets;
    work.output = (float *)(uintptr_t)output;
    Py_BEGIN_ALLOW_THREADS
    enough = run(&work, threads);
    Py_END_ALLOW_THREADS
    if (!enough) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"apply", apply, METH_VARARGS, "Reflects images in memory and turns their bytes into floats."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_pixels", NULL, 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__pixels(void) { return PyModule_Create(&definition); }
