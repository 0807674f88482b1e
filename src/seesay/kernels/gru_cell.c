/* The elementwise part of a GRU, one pass each way; see gru_cell.py for the equations. */

#include "common.h"

/* Writes the next state (R, H) and the three gates (R, 3 H) of the input's and the state's side of the gates (R, 3 H). */
void gru_cell(const float *inputs, const float *recurrent, const float *hidden, long long rows, long long size,
              float *next, float *gates)
{
    long long row;
#pragma omp parallel for schedule(static) if (rows * size > SMALL / 4)
    for (row = 0; row < rows; row++) {
        const float *x = inputs + 3 * row * size, *s = recurrent + 3 * row * size, *h = hidden + row * size;
        float *reset = gates + 3 * row * size, *update = reset + size, *candidate = update + size;
#pragma omp simd
        for (long long unit = 0; unit < size; unit++) {
            float r = logistic(x[unit] + s[unit]), z = logistic(x[size + unit] + s[size + unit]);
            float n = tangent(x[2 * size + unit] + r * s[2 * size + unit]);
            reset[unit] = r;
            update[unit] = z;
            candidate[unit] = n;
            next[row * size + unit] = n + z * (h[unit] - n);
        }
    }
}

/* Writes the gradients of the input's side, of the state's side (R, 3 H) and of the state (R, H). */
void gru_cell_backward(const float *grad, const float *recurrent, const float *hidden, const float *gates,
                       long long rows, long long size, float *grad_inputs, float *grad_recurrent, float *grad_hidden)
{
    long long row;
#pragma omp parallel for schedule(static) if (rows * size > SMALL / 4)
    for (row = 0; row < rows; row++) {
        long long first = 3 * row * size;
        const float *reset = gates + first, *update = reset + size, *candidate = update + size;
        const float *g = grad + row * size, *h = hidden + row * size, *s = recurrent + first + 2 * size;
        float *x = grad_inputs + first, *own = grad_recurrent + first, *before = grad_hidden + row * size;
#pragma omp simd
        for (long long unit = 0; unit < size; unit++) {
            float r = reset[unit], z = update[unit], n = candidate[unit];
            float inside = g[unit] * (1.0f - z) * (1.0f - n * n), to_reset = inside * s[unit] * r * (1.0f - r);
            float to_update = g[unit] * (h[unit] - n) * z * (1.0f - z);
            x[unit] = own[unit] = to_reset;
            x[size + unit] = own[size + unit] = to_update;
            x[2 * size + unit] = inside;
            own[2 * size + unit] = inside * r;
            before[unit] = g[unit] * z;
        }
    }
}
