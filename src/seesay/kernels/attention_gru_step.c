/* A decoding step of the attention GRU in one call: its products are so small that calls from Python take as long. */

#include "common.h"

void packed_linear(const float *x, const float *weight, const float *bias, long long rows, long long inputs,
                   long long outputs, float *out);
void additive_attention(const float *keys, const float *factors, const float *score, const float *memory,
                        const long long *image, const unsigned char *mask, long long rows, long long regions,
                        long long units, long long size, float *weights, float *context);

/* Widths D, H, A, O (0: no dense layer), V; matrices packed for `packed_linear`, except word_gates (V, 3H). */
struct attention_gru {
    long long size, hidden, units, dense_size, words;
    const float *word_gates, *query, *score, *context_gates, *state_gates, *state_bias, *dense, *dense_bias,
        *vocabulary, *vocabulary_bias;
};

/* Writes the next state (R, H) of a GRU from the input's and the state's side of its gates, (R, 3H) each. */
static void gru_update(const float *inputs, const float *recurrent, const float *state, long long rows, long long size,
                       float *next)
{
    long long row;
#pragma omp parallel for schedule(static) if (rows * size > SMALL / 4)
    for (row = 0; row < rows; row++) {
        const float *x = inputs + 3 * row * size, *s = recurrent + 3 * row * size, *h = state + row * size;
#pragma omp simd
        for (long long unit = 0; unit < size; unit++) {
            float reset = logistic(x[unit] + s[unit]), update = logistic(x[size + unit] + s[size + unit]);
            float candidate = tangent(x[2 * size + unit] + reset * s[2 * size + unit]);
            next[row * size + unit] = candidate + update * (h[unit] - candidate);
        }
    }
}

/* Writes the next state (R, H), attention weights (R, N) and logits (R, V) of R rows, `beam` per image, from their last
   tokens, states (R, H), keys = exp(2 k) (B, N, A), memory (B, N, D) and mask (B, N), which may be null. Scratch: image
   (R) and room (R, 6H + A + D + O). Returns 1 if a token is not in the vocabulary. */
int attention_gru_step(const struct attention_gru *s, const long long *tokens, const float *state, const float *keys,
                       const float *memory, const unsigned char *mask, long long rows, long long beam,
                       long long regions, long long *image, float *room, float *next, float *weights, float *logits)
{
    long long gates = 3 * s->hidden;
    float *inputs = room, *recurrent = inputs + rows * gates;
    float *factors = recurrent + rows * gates, *context = factors + rows * s->units, *dense = context + rows * s->size;
    for (long long row = 0; row < rows; row++) {
        if (tokens[row] < 0 || tokens[row] >= s->words)
            return 1;
        image[row] = row / beam;
    }
    packed_linear(state, s->query, 0, rows, s->hidden, s->units, factors);
    for (long long at = 0; at < rows * s->units; at++)
        factors[at] = exponential(2.0f * (factors[at] > 43.0f ? 43.0f : factors[at] < -43.0f ? -43.0f : factors[at]));
    additive_attention(keys, factors, s->score, memory, image, mask, rows, regions, s->units, s->size, weights, context);
    packed_linear(context, s->context_gates, 0, rows, s->size, gates, inputs);
    for (long long row = 0; row < rows; row++)
        for (long long gate = 0; gate < gates; gate++)
            inputs[row * gates + gate] += s->word_gates[tokens[row] * gates + gate];
    packed_linear(state, s->state_gates, s->state_bias, rows, s->hidden, gates, recurrent);
    gru_update(inputs, recurrent, state, rows, s->hidden, next);
    if (s->dense)
        packed_linear(next, s->dense, s->dense_bias, rows, s->hidden, s->dense_size, dense);
    packed_linear(s->dense ? dense : next, s->vocabulary, s->vocabulary_bias, rows,
                  s->dense ? s->dense_size : s->hidden, s->words, logits);
    return 0;
}
