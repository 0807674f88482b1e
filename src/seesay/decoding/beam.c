/* One word further with all open hypotheses of some images, in one pass over their scores. What is chosen is said in
   `seesay.decoding.search`, whose results these are; beam.py calls this. */

#include "../exponential.h"

#define SMALL 32768 /* scores that are read sooner than a second thread has been woken */
#define NEVER (-__builtin_inff())

/* A search of `images` images with a beam of `width`. Arrays with a row for each hypothesis are (images, width) or
   (images, width, ...); those of open ones stand twice, for steps of even and of odd number, as each step reads one
   and writes the other. */
struct search {
    long long images, width, words, limit, least, run, wanted; /* limit, least: of words; run: never said twice */
    long long end, silents, bans;
    const long long *silent, *banned; /* what is no word to be said; what may not be said */
    const float *norms;               /* by which a sum of so many log-probabilities is divided, (limit + 2) */
    long long *open, *ended;          /* how many hypotheses, (images) */
    float *sums, *log_probs;          /* open: (images, width), (2, images, width, limit + 1) */
    long long *tokens;                /* open: (2, images, width, limit) */
    float *scores, *ended_log_probs;
    long long *lengths, *freely, *ended_tokens; /* lengths: of log-probabilities; freely: not cut */
    float *totals, *best;                       /* scratch: (images, width), (images, width, width) */
    long long *which;                           /* scratch: (images, width, width) */
    long long *lost;                            /* set where this search cannot say what is to be done */
};

static int is_number(float x) { return x - x == 0.0f; }

/* log sum e^x of scores, those of what is no word put to -inf before. */
static float log_sum(const struct search *s, float *x)
{
    float top = NEVER, sum = 0.0f;
    for (long long each = 0; each < s->silents; each++)
        x[s->silent[each]] = NEVER;
#pragma omp simd reduction(max : top)
    for (long long word = 0; word < s->words; word++)
        top = x[word] > top ? x[word] : top;
#pragma omp simd reduction(+ : sum)
    for (long long word = 0; word < s->words; word++)
        sum += x[word] == NEVER ? 0.0f : exponential(x[word] - top);
    return top + __builtin_logf(sum);
}

/* Puts scores of what may not come next to -inf. */
static void bar(const struct search *s, float *x, const long long *said, long long step)
{
    for (long long each = 0; each < s->bans; each++)
        x[s->banned[each]] = NEVER;
    if (step < s->least)
        x[s->end] = NEVER;
    if (!s->run)
        return;
    for (long long begin = 0; begin + s->run <= step; begin++) {
        long long same = 0;
        while (same < s->run - 1 && said[begin + same] == said[step - s->run + 1 + same])
            same++;
        if (same == s->run - 1)
            x[said[begin + same]] = NEVER;
    }
}

/* The greatest `count` of scores, best first, of equal ones the first first; -inf where there are no more. */
static void greatest(const float *x, long long words, long long count, float *best, long long *which)
{
    for (long long place = 0; place < count; place++)
        best[place] = NEVER;
    float least = NEVER;
    for (long long word = 0; word < words; word++) {
        if (!(x[word] > least))
            continue;
        long long place = count - 1;
        for (; place > 0 && x[word] > best[place - 1]; place--) {
            best[place] = best[place - 1];
            which[place] = which[place - 1];
        }
        best[place] = x[word];
        which[place] = word;
        least = best[count - 1];
    }
}

/* Copies the words and log-probabilities of an open hypothesis, with the log-probability of one word more. */
static void copy(const struct search *s, long long step, long long from, long long *tokens, float *log_probs, float more)
{
    long long old = step % 2 * s->images * s->width + from;
    for (long long word = 0; word < step; word++) {
        tokens[word] = s->tokens[old * s->limit + word];
        log_probs[word] = s->log_probs[old * (s->limit + 1) + word];
    }
    log_probs[step] = more;
}

static void put_away(const struct search *s, long long image, long long step, long long from, float sum, float more,
                     long long freely)
{
    long long to = image * s->width + s->ended[image]++;
    copy(s, step, from, s->ended_tokens + to * s->limit, s->ended_log_probs + to * (s->limit + 1), more);
    s->scores[to] = sum / s->norms[step + 1];
    s->lengths[to] = step + 1;
    s->freely[to] = freely;
}

/* The score that one of the best `wanted` captions has to beat. */
static float to_beat(const struct search *s, long long image)
{
    const float *scores = s->scores + image * s->width;
    long long count = s->ended[image];
    for (long long each = 0; each < count; each++) {
        long long better = 0, equal = 0;
        for (long long other = 0; other < count; other++) {
            better += scores[other] > scores[each];
            equal += scores[other] == scores[each];
        }
        if (better < s->wanted && s->wanted <= better + equal)
            return scores[each];
    }
    return NEVER;
}

static void advance_image(const struct search *s, long long image, long long step, long long *words,
                            long long *parents)
{
    long long first = image * s->width, places = s->width - s->ended[image], rows = s->open[image], found = 0;
    float *sums = s->sums + first, chosen[places + 1], chances[places + 1];
    for (long long row = 0; row < rows; row++)
        for (long long rank = 0; rank < places; rank++) {
            long long at = (first + row) * s->width + rank;
            float chance = s->best[at] - s->totals[first + row], sum = sums[row] + chance;
            if (!is_number(sum))
                break;
            long long place = found < places ? found++ : places;
            for (; place > 0 && sum > chosen[place - 1]; place--)
                if (place < places) {
                    chosen[place] = chosen[place - 1];
                    chances[place] = chances[place - 1];
                    words[place] = words[place - 1];
                    parents[place] = parents[place - 1];
                }
            if (place == places)
                break; /* what follows in this row is no better */
            chosen[place] = sum;
            chances[place] = chance;
            words[place] = s->which[at];
            parents[place] = row;
        }
    if (!found && !s->ended[image])
        *s->lost = 1; /* none can go on, and none has ended */
    for (long long place = 0; place < found; place++)
        if (words[place] == s->end)
            put_away(s, image, step, first + parents[place], chosen[place], chances[place], 1);
    float least = to_beat(s, image);
    long long open = 0, next = (step + 1) % 2 * s->images * s->width + first;
    for (long long place = 0; place < found; place++) {
        if (words[place] == s->end || chosen[place] / s->norms[s->limit + 1] <= least)
            continue;
        long long *tokens = s->tokens + (next + open) * s->limit;
        copy(s, step, first + parents[place], tokens, s->log_probs + (next + open) * (s->limit + 1), chances[place]);
        tokens[step] = words[place];
        words[open] = words[place];
        parents[open] = parents[place];
        sums[open++] = chosen[place];
    }
    s->open[image] = s->ended[image] < s->width ? open : 0;
    for (; open < s->width; open++) /* rows that are computed beside others and not looked at */
        words[open] = s->end, parents[open] = 0;
}

/* scores (count, rows, words), written over, of the hypotheses of images `image` (count), which have said `step` words.
   Writes the words that are said next, and the rows that say them, both (count, width). */
void advance(struct search *s, float *scores, const long long *image, long long count, long long rows, long long step,
             long long *words, long long *parents)
{
#pragma omp parallel if (count * rows * s->words > SMALL)
    {
#pragma omp for schedule(static)
        for (long long job = 0; job < count * rows; job++) {
            long long image = image[job / rows], row = job % rows, at = image * s->width + row;
            if (row >= s->open[image])
                continue;
            float *x = scores + job * s->words;
            s->totals[at] = log_sum(s, x);
            if (!is_number(s->totals[at]))
                *s->lost = 1;
            bar(s, x, s->tokens + (step % 2 * s->images * s->width + at) * s->limit, step);
            greatest(x, s->words, s->width - s->ended[image], s->best + at * s->width, s->which + at * s->width);
        }
#pragma omp for schedule(static)
        for (long long job = 0; job < count; job++)
            advance_image(s, image[job], step, words + job * s->width, parents + job * s->width);
    }
}

/* Ends the hypotheses of images that have as many words as they may. */
void close_all(struct search *s, float *scores, const long long *image, long long count, long long rows)
{
    for (long long job = 0; job < count; job++) {
        long long image = image[job], first = image * s->width;
        for (long long row = 0; row < s->open[image]; row++) {
            float *x = scores + (job * rows + row) * s->words, total = log_sum(s, x), chance = x[s->end] - total;
            long long likeliest = -1;
            float top;
            greatest(x, s->words, 1, &top, &likeliest);
            if (!is_number(total))
                *s->lost = 1;
            else if (is_number(chance))
                put_away(s, image, s->limit, first + row, s->sums[first + row] + chance, chance, likeliest == s->end);
        }
        if (!s->ended[image])
            *s->lost = 1;
        s->open[image] = 0;
    }
}
