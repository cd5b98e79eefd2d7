// The end of a batch, for all slots of a site: what one_read appended and counted by document is
// joined to what is held.

#define VARIANTS 4

// Join what was appended to the k largest of each slot (one block a slot), and raise the floor.
// values, documents, positions, columns (2, slots, k): the first half, in order, is read and
// written, the second is room; empty places have the value NaN. order (rows): the batch's documents,
// rising.
extern "C" __global__ void join_largest(
    const i64* __restrict__ keys, int* __restrict__ found, const i64* __restrict__ order,
    float* values, i64* documents, int* positions, int* columns, float* __restrict__ floors, int k,
    int tokens, int channels, int capacity) {
    const int slot = blockIdx.x, slots = gridDim.x, number = found[slot];
    if (number == 0) return;
    const i64 here = (i64)slot * k, room = (i64)slots * k + here;
    const i64* mine = keys + (i64)slot * capacity;
    auto at_of = [](i64 key) { return 0x7fffffffLL - ((key & 0xffffffffLL) >> 1); };
    auto before = [&](i64 key, int i) {  // whether a key comes before the value held at place i
        const float held = fabsf(values[here + i]), size = __uint_as_float((u32)(key >> 32));
        if (!(held == size)) return !(held > size);  // an empty place comes last
        const i64 at = at_of(key), document = order[at / channels / tokens];
        const int position = at / channels % tokens, column = at % channels;
        if (document != documents[here + i]) return document < documents[here + i];
        if (position != positions[here + i]) return position < positions[here + i];
        return column < columns[here + i];
    };
    for (int n = threadIdx.x; n < k + number; n += blockDim.x) {
        float value;
        i64 document;
        int position, column, rank;
        if (n < k) {
            value = values[here + n], document = documents[here + n];
            position = positions[here + n], column = columns[here + n];
            if (value != value) continue;
            rank = n;
            for (int j = 0; j < number && rank < k; ++j) rank += before(mine[j], n);
        } else {
            const i64 key = mine[n - k], at = at_of(key);
            int high = k;  // the first place held that the key comes before
            for (rank = 0; rank < high;) {
                const int middle = (rank + high) / 2;
                if (before(key, middle)) high = middle;
                else rank = middle + 1;
            }
            for (int j = 0; j < number && rank < k; ++j) rank += mine[j] > key;
            value = __uint_as_float((u32)(key >> 32) | ((u32)(key & 1) << 31));
            document = order[at / channels / tokens];
            position = at / channels % tokens, column = at % channels;
        }
        if (rank >= k) continue;
        values[room + rank] = value, documents[room + rank] = document;
        positions[room + rank] = position, columns[room + rank] = column;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < k; i += blockDim.x) {
        values[here + i] = values[room + i], documents[here + i] = documents[room + i];
        positions[here + i] = positions[room + i], columns[here + i] = columns[room + i];
    }
    if (threadIdx.x == 0) {
        const float least = fabsf(values[room + k - 1]);
        // The next size up: a later document does not displace an equal value of an earlier one.
        if (least == least) floors[slot] = __uint_as_float(__float_as_uint(least) + 1u);
        found[slot] = 0;
    }
}

// Add a batch's counts to those of the variants, as `Exceedances.reduce` does. above (slots,
// places, channels) of `rows` documents in `spans` places each; weights (variants, rows); values and
// documents (slots, variants, channels). A thread has a channel of a slot, and VARIANTS variants.
extern "C" __global__ void count_documents(
    const int* __restrict__ above, const i64* __restrict__ weights, int* __restrict__ values,
    int* __restrict__ documents, int rows, int spans, int places, int channels, int variants) {
    const int channel = blockIdx.x * blockDim.x + threadIdx.x, slot = blockIdx.y;
    const int first = blockIdx.z * VARIANTS;
    if (channel >= channels) return;
    int reached[VARIANTS] = {}, met[VARIANTS] = {};
    const int* mine = above + (i64)slot * places * channels + channel;
    for (int row = 0; row < rows; ++row) {
        int number = 0;
        for (int i = 0; i < spans; ++i) number += mine[(i64)(row * spans + i) * channels];
#pragma unroll
        for (int v = 0; v < VARIANTS; ++v) {
            if (first + v >= variants) break;
            const int weight = (int)weights[(i64)(first + v) * rows + row];
            reached[v] += weight * number;
            met[v] += weight * (number > 0);
        }
    }
    for (int v = 0; v < VARIANTS && first + v < variants; ++v) {
        const i64 to = ((i64)slot * variants + first + v) * channels + channel;
        values[to] += reached[v];
        documents[to] += met[v];
    }
}
