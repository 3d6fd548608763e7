/* Copies a window of RGB pixels, reflected left to right where asked for, in one pass over its bytes. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define VECTOR 16
#define PIXELS 5 /* whole pixels in a vector: fifteen bytes */

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif

#if defined(__has_builtin)
#if __has_builtin(__builtin_shufflevector)
#define HAS_SHUFFLE
#endif
#endif

typedef uint8_t Bytes __attribute__((vector_size(VECTOR)));

FOR_EACH_CPU static void reflect(const uint8_t *from, uint8_t *to, Py_ssize_t width) {
    Py_ssize_t x = 0;
#ifdef HAS_SHUFFLE
    /* Each step reads and writes one byte more than its five pixels: the next step writes that one again. */
    for (; x + PIXELS < width; x += PIXELS) {
        Bytes pixels;
        memcpy(&pixels, from + (width - x - PIXELS) * 3 - 1, VECTOR);
        pixels = __builtin_shufflevector(pixels, pixels, 13, 14, 15, 10, 11, 12, 7, 8, 9, 4, 5, 6, 1, 2, 3, 0);
        memcpy(to + x * 3, &pixels, VECTOR);
    }
#endif
    for (; x < width; x++) memcpy(to + x * 3, from + (width - x - 1) * 3, 3);
}

static void copy(const uint8_t *from, Py_ssize_t stride, uint8_t *to, Py_ssize_t height, Py_ssize_t width,
                 int reflected) {
    for (Py_ssize_t y = 0; y < height; y++, from += stride, to += width * 3) {
        if (reflected)
            reflect(from, to, width);
        else
            memcpy(to, from, (size_t)width * 3);
    }
}

/* Whether a buffer is [height, width, 3] bytes whose pixels of a row lie side by side. */
static int has_rows(const Py_buffer *view) {
    return view->ndim == 3 && view->itemsize == 1 && view->shape[2] == 3 && view->strides[2] == 1 &&
           view->strides[1] == 3;
}

static PyObject *apply(PyObject *module, PyObject *const *arguments, Py_ssize_t num_arguments) {
    (void)module;
    if (num_arguments != 3) {
        PyErr_SetString(PyExc_TypeError, "give a window, its target, and whether it is reflected");
        return NULL;
    }
    const int reflected = PyObject_IsTrue(arguments[2]);
    Py_buffer from, to;
    if (reflected < 0 || PyObject_GetBuffer(arguments[0], &from, PyBUF_STRIDES) < 0) return NULL;
    if (PyObject_GetBuffer(arguments[1], &to, PyBUF_STRIDES | PyBUF_WRITABLE) < 0) {
        PyBuffer_Release(&from);
        return NULL;
    }
    const int fits = has_rows(&from) && has_rows(&to) && from.shape[0] == to.shape[0] &&
                     from.shape[1] == to.shape[1] && to.strides[0] == to.shape[1] * 3;
    if (fits) {
        Py_BEGIN_ALLOW_THREADS
        copy(from.buf, from.strides[0], to.buf, from.shape[0], from.shape[1], reflected);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&from);
    PyBuffer_Release(&to);
    return PyBool_FromLong(fits);
}

static PyMethodDef methods[] = {
    {"apply", (PyCFunction)(void (*)(void))apply, METH_FASTCALL, "Copies a window; says whether its shape allowed it."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_crop", NULL, 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__crop(void) { return PyModule_Create(&definition); }
