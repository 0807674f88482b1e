/* The elementwise part of an LSTM, one pass each way; see lstm_cell.py for the equations. */

#include "common.h"

/* Writes the next state and cell (R, H) of the gates before their activations (R, 4 H) and the cell (R, H), and replaces
   the gates by their activations. */
void lstm_cell(float *gates, const float *cell, long long rows, long long size, float *hidden, float *next)
{
    long long row;
#pragma omp parallel for schedule(static) if (rows * size > SMALL / 4)
    for (row = 0; row < rows; row++) {
        float *in = gates + 4 * row * size, *forget = in + size, *candidate = forget + size, *out = candidate + size;
        long long first = row * size;
#pragma omp simd
        for (long long unit = 0; unit < size; unit++) {
            in[unit] = logistic(in[unit]);
            forget[unit] = logistic(forget[unit]);
            candidate[unit] = tangent(candidate[unit]);
            out[unit] = logistic(out[unit]);
            float c = forget[unit] * cell[first + unit] + in[unit] * candidate[unit];
            next[first + unit] = c;
            hidden[first + unit] = out[unit] * tangent(c);
        }
    }
}

/* Writes the gradients of the gates before their activations (R, 4 H) and of the cell (R, H); `next` is the next cell. */
void lstm_cell_backward(const float *grad_hidden, const float *grad_next, const float *gates, const float *cell,
                        const float *next, long long rows, long long size, float *grad_gates, float *grad_cell)
{
    long long row;
#pragma omp parallel for schedule(static) if (rows * size > SMALL / 4)
    for (row = 0; row < rows; row++) {
        const float *in = gates + 4 * row * size, *forget = in + size, *candidate = forget + size;
        const float *out = candidate + size;
        float *to_in = grad_gates + 4 * row * size, *to_forget = to_in + size, *to_candidate = to_forget + size;
        float *to_out = to_candidate + size;
        long long first = row * size;
#pragma omp simd
        for (long long unit = 0; unit < size; unit++) {
            float i = in[unit], f = forget[unit], n = candidate[unit], o = out[unit], t = tangent(next[first + unit]);
            float inside = grad_next[first + unit] + grad_hidden[first + unit] * o * (1.0f - t * t);
            to_in[unit] = inside * n * i * (1.0f - i);
            to_forget[unit] = inside * cell[first + unit] * f * (1.0f - f);
            to_candidate[unit] = inside * i * (1.0f - n * n);
            to_out[unit] = grad_hidden[first + unit] * t * o * (1.0f - o);
            grad_cell[first + unit] = inside * f;
        }
    }
}
