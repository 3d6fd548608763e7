/* Scales a square of RGB pixels to another square by antialiased bicubic interpolation, with Pillow's bits.
 *
 * Pillow weights bytes with integers of 22 fraction bits: first along rows, then, rounded to bytes, along columns.
 * Integer sums do not depend on the order, so the loops can be vectorised freely.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define FRACTION_BITS 22
#define LANES 16 /* 32-bit lanes of the widest vectors; narrower vectors take several steps */
#define ROWS 4   /* rows side by side in the first pass: one pixel of each, padded to four bytes, fills the lanes */

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif

typedef int32_t Ints __attribute__((vector_size(LANES * sizeof(int32_t))));

/* The input pixels of each output pixel, and their weights, with room for `most` weights each. */
typedef struct {
    const int32_t *first;
    const int32_t *count;
    const int32_t *weights;
    Py_ssize_t most;
} Table;

/* Scales LANES lines side by side, from [side][LANES] levels to [size][LANES]; both passes use it. */
FOR_EACH_CPU static void scale_lines(const int32_t *block, const Table *table, Py_ssize_t size, int32_t *output) {
    for (Py_ssize_t x = 0; x < size; x++) {
        const int32_t *from = block + (Py_ssize_t)table->first[x] * LANES;
        const int32_t *weights = table->weights + x * table->most;
        const int32_t count = table->count[x];
        Ints even = (1 << (FRACTION_BITS - 1)) - (Ints){0}, odd = {0};
        int32_t k = 0;
        for (; k + 1 < count; k += 2, from += 2 * LANES) {
            Ints one, two;
            memcpy(&one, from, sizeof one);
            memcpy(&two, from + LANES, sizeof two);
            even += weights[k] * one;
            odd += weights[k + 1] * two;
        }
        if (k < count) {
            Ints one;
            memcpy(&one, from, sizeof one);
            even += weights[k] * one;
        }
        even += odd;
        memcpy(output + x * LANES, &even, sizeof even);
    }
}

/* These loops are separate because inside the others the compiler does not vectorise them. */
FOR_EACH_CPU static void widen(const uint8_t *bytes, Py_ssize_t count, int32_t *levels) {
    for (Py_ssize_t i = 0; i < count; i++) levels[i] = bytes[i];
}

FOR_EACH_CPU static void to_bytes(const int32_t *sums, Py_ssize_t count, uint8_t *bytes) {
    for (Py_ssize_t i = 0; i < count; i++) {
        int32_t level = sums[i] >> FRACTION_BITS;
        level = level < 0 ? 0 : level;
        bytes[i] = (uint8_t)(level > 255 ? 255 : level);
    }
}

/* Copies `rows` ≤ ROWS rows of pixels to [side][ROWS][4] bytes; the last of the four bytes is not used. */
static void take_rows(const uint8_t *source, Py_ssize_t stride, Py_ssize_t rows, Py_ssize_t side, uint8_t *bytes) {
    for (Py_ssize_t r = 0; r < rows; r++) {
        const uint8_t *row = source + r * stride;
        uint8_t *lane = bytes + r * 4;
        for (Py_ssize_t x = 0; x + 1 < side; x++) memcpy(lane + x * LANES, row + x * 3, 4);
        /* There may be no memory after the last pixel. */
        memcpy(lane + (side - 1) * LANES, row + (side - 1) * 3, 3);
    }
}

static void put_rows(const uint8_t *bytes, Py_ssize_t rows, Py_ssize_t size, uint8_t *output) {
    for (Py_ssize_t r = 0; r < rows; r++, output += size * 3) {
        const uint8_t *lane = bytes + r * 4;
        /* The next pixel overwrites the fourth byte. */
        for (Py_ssize_t x = 0; x + 1 < size; x++) memcpy(output + x * 3, lane + x * LANES, 4);
        memcpy(output + (size - 1) * 3, lane + (size - 1) * LANES, 3);
    }
}

/* Bytes are widened to levels once and not for each weight; a block of levels fits in the L1 cache. */
typedef struct {
    uint8_t *bytes;  /* [larger of side and size][LANES] */
    int32_t *levels; /* [side][LANES] */
    int32_t *sums;   /* [size][LANES] */
    uint8_t *rows;   /* [side][size][3] */
} Scratch;

static void scale(const uint8_t *source, Py_ssize_t stride, Py_ssize_t side, const Table *table, Py_ssize_t size,
                  uint8_t *output, const Scratch *scratch) {
    const Py_ssize_t width = size * 3;
    memset(scratch->bytes, 0, (size_t)side * LANES);
    for (Py_ssize_t y = 0; y < side; y += ROWS) {
        const Py_ssize_t here = side - y < ROWS ? side - y : ROWS;
        take_rows(source + y * stride, stride, here, side, scratch->bytes);
        widen(scratch->bytes, side * LANES, scratch->levels);
        scale_lines(scratch->levels, table, size, scratch->sums);
        to_bytes(scratch->sums, size * LANES, scratch->bytes);
        put_rows(scratch->bytes, here, size, scratch->rows + y * width);
    }
    for (Py_ssize_t i = 0; i < width; i += LANES) {
        const Py_ssize_t here = width - i < LANES ? width - i : LANES;
        for (Py_ssize_t y = 0; y < side; y++)
            memcpy(scratch->bytes + y * LANES, scratch->rows + y * width + i, (size_t)here);
        widen(scratch->bytes, side * LANES, scratch->levels);
        scale_lines(scratch->levels, table, size, scratch->sums);
        to_bytes(scratch->sums, size * LANES, scratch->bytes);
        for (Py_ssize_t y = 0; y < size; y++) memcpy(output + y * width + i, scratch->bytes + y * LANES, (size_t)here);
    }
}

static int scale_with_scratch(const uint8_t *source, Py_ssize_t stride, Py_ssize_t side, const Table *table,
                              Py_ssize_t size, uint8_t *output) {
    const size_t levels = (size_t)side * LANES, sums = (size_t)size * LANES, larger = levels > sums ? levels : sums;
    /* The integers come first, for their alignment. */
    int32_t *memory = malloc((levels + sums) * sizeof(int32_t) + larger + (size_t)side * (size_t)size * 3);
    if (!memory) return 0;
    uint8_t *bytes = (uint8_t *)(memory + levels + sums);
    const Scratch scratch = {bytes, memory, memory + levels, bytes + larger};
    scale(source, stride, side, table, size, output, &scratch);
    free(memory);
    return 1;
}

static PyObject *apply(PyObject *module, PyObject *arguments) {
    (void)module;
    unsigned long long source, first, count, weights, output;
    Py_ssize_t stride, side, most, size;
    if (!PyArg_ParseTuple(arguments, "KnnKKKnKn", &source, &stride, &side, &first, &count, &weights, &most, &output,
                          &size))
        return NULL;
    const Table table = {(const int32_t *)(uintptr_t)first, (const int32_t *)(uintptr_t)count,
                         (const int32_t *)(uintptr_t)weights, most};
    int enough;
    Py_BEGIN_ALLOW_THREADS
    enough = scale_with_scratch((const uint8_t *)(uintptr_t)source, stride, side, &table, size, (uint8_t *)(uintptr_t)output);
    Py_END_ALLOW_THREADS
    if (!enough) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"apply", apply, METH_VARARGS, "Scales a square of RGB pixels in memory."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_resize", NULL, 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__resize(void) { return PyModule_Create(&definition); }
