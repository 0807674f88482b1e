/* Draws words from the whole softmax, in one pass over the scores and one over some of them. */

#include "../exponential.h"

#define PART 256     /* words whose weights are added up in float32 */
#define SMALL 8192   /* scores that are gone through sooner than a second thread has been woken */
#define LEAST -87.0f /* below which a word is as good as never said */

/* Words (rows) of scores (rows, words) at uniform numbers (rows), by inverting the cumulative distribution of
   softmax(scores / temperature): the word in whose share of 0..1 the number falls. `weights` is room, (rows, words). */
void sample_tokens(const float *scores, const double *draws, double temperature, long long rows, long long words,
                float *weights, long long *drawn)
{
    long long row;
    float warmth = temperature < 1e-30 ? 1e-30f : (float)temperature; /* by which nothing divided stays nothing */
#pragma omp parallel for schedule(static) if (rows * words > SMALL)
    for (row = 0; row < rows; row++) {
        const float *score = scores + row * words;
        float *weight = weights + row * words, top = score[0];
        long long parts = (words + PART - 1) / PART;
#pragma omp simd reduction(max : top)
        for (long long word = 0; word < words; word++)
            top = score[word] > top ? score[word] : top;
        double total = 0.0, before = 0.0;
        double sums[parts];
        for (long long part = 0; part < parts; part++) {
            long long end = (part + 1) * PART < words ? (part + 1) * PART : words;
            float sum = 0.0f;
#pragma omp simd reduction(+ : sum)
            for (long long word = part * PART; word < end; word++) {
                float x = (score[word] - top) / warmth;
                float one = exponential(x);
                one = x < LEAST ? 0.0f : one;
                weight[word] = x == x ? one : x; /* no number stays none */
                sum += weight[word];
            }
            sums[part] = sum;
            total += sum;
        }
        double wanted = draws[row] * total;
        long long part = 0, found = words - 1; /* the last one only where scores are no numbers */
        while (part < parts - 1 && !(before + sums[part] > wanted))
            before += sums[part++];
        long long end = (part + 1) * PART < words ? (part + 1) * PART : words;
        for (long long word = part * PART; word < end; word++) {
            if (!(weight[word] > 0.0f))
                continue;
            found = word; /* rounding never leaves a number beyond the last word that may be said */
            before += weight[word];
            if (before > wanted)
                break;
        }
        drawn[row] = found;
    }
}
