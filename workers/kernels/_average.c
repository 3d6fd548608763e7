/* Weighted sums of several float32 arrays, one pass over memory; of arrays in files, without Python in between.
 *
 * Each product and each sum is rounded to float64 by itself, in the order given, and the total to float32 once:
 * contraction is off (see pyproject.toml), so the bits are those of the same arithmetic in NumPy, whatever the vector
 * width.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#define MOST_MEMBERS 1024
#define WIDTH 8 /* float64 lanes of the widest vectors; narrower ones take several steps */
#define STEP (4 * WIDTH)

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && defined(__linux__)
#define FOR_EACH_CPU __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define FOR_EACH_CPU
#endif

typedef float Floats __attribute__((vector_size(WIDTH * sizeof(float))));
typedef double Doubles __attribute__((vector_size(WIDTH * sizeof(double))));

/* Macros: a function would pass vectors in ways that depend on the CPU that it is compiled for. */
#define ADD(sum, weight, from)                                                                                         \
    do {                                                                                                               \
        Floats loaded;                                                                                                 \
        memcpy(&loaded, from, sizeof loaded);                                                                          \
        sum += weight * __builtin_convertvector(loaded, Doubles);                                                      \
    } while (0)
#define STORE(to, sum)                                                                                                 \
    do {                                                                                                               \
        Floats rounded = __builtin_convertvector(sum, Floats);                                                         \
        memcpy(to, &rounded, sizeof rounded);                                                                          \
    } while (0)

FOR_EACH_CPU static void average(const float *const *members, const double *weights, Py_ssize_t num_members,
                                 float *output, Py_ssize_t num_items) {
    Py_ssize_t i = 0;
    for (; i + STEP <= num_items; i += STEP) {
        Doubles a = {0}, b = {0}, c = {0}, d = {0};
        for (Py_ssize_t m = 0; m < num_members; m++) {
            const float *from = members[m] + i;
            const Doubles weight = weights[m] - (Doubles){0};
            ADD(a, weight, from);
            ADD(b, weight, from + WIDTH);
            ADD(c, weight, from + 2 * WIDTH);
            ADD(d, weight, from + 3 * WIDTH);
        }
        STORE(output + i, a);
        STORE(output + i + WIDTH, b);
        STORE(output + i + 2 * WIDTH, c);
        STORE(output + i + 3 * WIDTH, d);
    }
    for (; i < num_items; i++) {
        double sum = 0.0;
        for (Py_ssize_t m = 0; m < num_members; m++) sum += weights[m] * (double)members[m][i];
        output[i] = (float)sum;
    }
}

/* Fills `to` from a file; 0 where the file ends before, or does not let itself be read. */
static int read_whole(int descriptor, char *to, size_t num_bytes, off_t offset) {
    while (num_bytes > 0) {
        const ssize_t count = pread(descriptor, to, num_bytes, offset);
        if (count <= 0) return 0;
        to += count;
        num_bytes -= (size_t)count;
        offset += count;
    }
    return 1;
}

/* As `average`, of the same stretch of each file: a part at a time, still in the cache when it is summed. */
static int average_files(const int *descriptors, const off_t *offsets, const double *weights, Py_ssize_t num_members,
                         float *room, Py_ssize_t part_items, float *output, Py_ssize_t num_items) {
    const float *members[MOST_MEMBERS];
    for (Py_ssize_t m = 0; m < num_members; m++) members[m] = room + m * part_items;
    for (Py_ssize_t start = 0; start < num_items; start += part_items) {
        const Py_ssize_t rest = num_items - start, count = rest < part_items ? rest : part_items;
        for (Py_ssize_t m = 0; m < num_members; m++) {
            char *to = (char *)(room + m * part_items);
            const off_t offset = offsets[m] + (off_t)(start * (Py_ssize_t)sizeof(float));
            if (!read_whole(descriptors[m], to, (size_t)count * sizeof(float), offset)) return 0;
        }
        average(members, weights, num_members, output + start, count);
    }
    return 1;
}

/* Writes the numbers of a tuple to `weights`; 0, with an exception set, where they are not one for each member. */
static int read_weights(PyObject *shares, Py_ssize_t num_members, double *weights) {
    if (num_members > MOST_MEMBERS || PyTuple_GET_SIZE(shares) != num_members) {
        PyErr_SetString(PyExc_ValueError, "too many members, or not one weight a member");
        return 0;
    }
    for (Py_ssize_t m = 0; m < num_members; m++) weights[m] = PyFloat_AsDouble(PyTuple_GET_ITEM(shares, m));
    return !PyErr_Occurred();
}

static PyObject *apply(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *addresses, *shares;
    unsigned long long output;
    Py_ssize_t num_items;
    if (!PyArg_ParseTuple(arguments, "O!O!Kn", &PyTuple_Type, &addresses, &PyTuple_Type, &shares, &output, &num_items))
        return NULL;
    const Py_ssize_t num_members = PyTuple_GET_SIZE(addresses);
    const float *members[MOST_MEMBERS];
    double weights[MOST_MEMBERS];
    if (!read_weights(shares, num_members, weights)) return NULL;
    for (Py_ssize_t m = 0; m < num_members; m++)
        members[m] = (const float *)PyLong_AsVoidPtr(PyTuple_GET_ITEM(addresses, m));
    if (PyErr_Occurred()) return NULL;
    Py_BEGIN_ALLOW_THREADS
    average(members, weights, num_members, (float *)(uintptr_t)output, num_items);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *apply_to_files(PyObject *module, PyObject *arguments) {
    (void)module;
    PyObject *files, *starts, *shares;
    unsigned long long room, output;
    Py_ssize_t room_items, num_items;
    if (!PyArg_ParseTuple(arguments, "O!O!O!KnKn", &PyTuple_Type, &files, &PyTuple_Type, &starts, &PyTuple_Type,
                          &shares, &room, &room_items, &output, &num_items))
        return NULL;
    const Py_ssize_t num_members = PyTuple_GET_SIZE(files);
    int descriptors[MOST_MEMBERS], whole;
    off_t offsets[MOST_MEMBERS];
    double weights[MOST_MEMBERS];
    if (!read_weights(shares, num_members, weights)) return NULL;
    if (PyTuple_GET_SIZE(starts) != num_members || num_members == 0 || room_items < num_members) {
        PyErr_SetString(PyExc_ValueError, "no members, not one offset a member, or no room for them");
        return NULL;
    }
    for (Py_ssize_t m = 0; m < num_members; m++) {
        descriptors[m] = (int)PyLong_AsLong(PyTuple_GET_ITEM(files, m));
        offsets[m] = (off_t)PyLong_AsLongLong(PyTuple_GET_ITEM(starts, m));
    }
    if (PyErr_Occurred()) return NULL;
    Py_BEGIN_ALLOW_THREADS
    whole = average_files(descriptors, offsets, weights, num_members, (float *)(uintptr_t)room,
                          room_items / num_members, (float *)(uintptr_t)output, num_items);
    Py_END_ALLOW_THREADS
    return PyBool_FromLong(whole);
}

static PyMethodDef methods[] = {
    {"apply", apply, METH_VARARGS, "Writes the weighted sum of arrays in memory."},
    {"apply_to_files", apply_to_files, METH_VARARGS, "Writes the weighted sum of arrays in files, if all can be read."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_average", NULL, 0, methods, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit__average(void) {
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddIntConstant(module, "MOST_MEMBERS", MOST_MEMBERS) < 0) Py_CLEAR(module);
    return module;
}
