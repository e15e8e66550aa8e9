// The operator of replicas.h for Apple's GPUs. UNTESTED UNTIL A MAC HAS RUN IT: no Metal compiler has seen this file.
// Its arithmetic has been compiled as C++ and, with 128 threads for a threadgroup, compared with plain loops.
//
//   y[r, t, o] = Σ_g s_r[o, g] Σ_{i in g} (k[o, i] − z_r[o, g]) x[t, i]         own_inputs 0
//                                                               x[r, t, i]      own_inputs 1
//
// Codes and parameters lie as quant/kernels/layout.h says (its fill_codes and fill_parameters make both buffers,
// without windows): 16 rows are a tile, a tile is words of 32 bits, one of each row side by side, so that 16
// neighbouring threads, a row each, read 64 neighbouring bytes. Byte c of a word has the columns with column mod 4 = c,
// b bits each, four neighbouring columns per plane; 3-bit codes are two words of their lower two bits and one of their
// third.
//
// A threadgroup computes a tile for one token and all sets: its 8 parts × 16 rows of threads take an eighth of the
// tile's words each, load every word once, and their sums are added at the end.
//
//   kernel       refrain_replicas_<b>_half or refrain_replicas_<b>_float, b = 1, 2, 3, 4, 8: by the type of parameters
//   grid         threadgroups {ceil(O / 16), tokens, 1} of {128, 1, 1} threads
//   buffer 0     RefrainProduct
//          1     words        uint [tiles, span words · spans], Layout::words() of them
//          2     parameters   half or float [sets, tiles, spans, 1 or 2, 16]: scales, then with has_zeros zero points
//          3     zeros        float [sets], the constant zero point of each set; read without has_zeros
//          4     x            float [tokens, I], or with own_inputs [sets, tokens, I]
//          5     y            float [sets, tokens, O]
// More than 8 sets are dispatched 8 at a time, with parameters, zeros, y (and own x) moved on.
#include <metal_stdlib>

using namespace metal;

struct RefrainProduct {  // Layout's members by their names
  int rows, columns;     // O, I
  int group_size;        // S, columns
  int span;              // columns of a span, padded to whole words
  int spans_per_group;
  int spans;         // of a row: groups · spans_per_group
  int tokens, sets;  // sets: at most 8
  int own_inputs, has_zeros;
};

constexpr constant int kTileRows = 16, kParts = 8, kMostSets = 8;

// Four codes, one per byte: those of columns 4 plane … 4 plane + 3 of a block. word: the row's first one of the block.
template <int bits>
uint codes_of_plane(device const uint* word, int plane) {
  if (bits == 3) {
    const uint low = word[plane / 4 * kTileRows] >> (2 * (plane % 4)) & 0x03030303u;
    const uint third = word[2 * kTileRows] >> plane & 0x01010101u;
    return low | third << 2;
  }
  return word[0] >> (bits * plane) & 0x01010101u * ((1u << bits) - 1u);
}

template <int bits, typename Value>
kernel void refrain_replicas(constant RefrainProduct& p [[buffer(0)]], device const uint* words [[buffer(1)]],
                             device const Value* parameters [[buffer(2)]], device const float* zeros [[buffer(3)]],
                             device const float* x [[buffer(4)]], device float* y [[buffer(5)]],
                             uint3 place [[threadgroup_position_in_grid]],
                             uint thread_index [[thread_index_in_threadgroup]]) {
  threadgroup float partial[kParts * kTileRows];
  const int block_columns = bits == 3 ? 32 : 32 / bits, block_words = bits == 3 ? 3 : 1;  // per row
  const int tile = int(place.x), token = int(place.y), tiles = (p.rows + kTileRows - 1) / kTileRows;
  const int row = int(thread_index) % kTileRows, part = int(thread_index) / kTileRows;
  const int span_blocks = p.span / block_columns, blocks = p.spans * span_blocks;
  const int inputs = p.own_inputs != 0 ? p.sets : 1, values = p.has_zeros != 0 ? 2 * kTileRows : kTileRows;
  device const uint* tile_words = words + tile * blocks * block_words * kTileRows + row;

  float sum[kMostSets] = {0};
  const int last = blocks * (part + 1) / kParts;
  for (int block = blocks * part / kParts; block < last;) {  // a span, or what of it is this part's
    const int s = block / span_blocks, group = s / p.spans_per_group, end = min(last, (s + 1) * span_blocks);
    const int begin = group * p.group_size + s % p.spans_per_group * p.span;  // first column of the span
    const int behind = min(p.columns, (group + 1) * p.group_size);            // of the group; then padding
    float dot[kMostSets] = {0}, total[kMostSets] = {0};                       // Σ k x and Σ x of every input
    for (; block < end; ++block) {
      device const uint* word = tile_words + block * block_words * kTileRows;
      for (int plane = 0; plane < block_columns / 4; ++plane) {
        const uint codes = codes_of_plane<bits>(word, plane);
        const int first = begin + (block - s * span_blocks) * block_columns + 4 * plane;
        for (int c = 0; c < 4 && first + c < behind; ++c) {
          const float code = float(codes >> (8 * c) & 0xffu);
          for (int j = 0; j < inputs; ++j) {
            const float input = x[(j * p.tokens + token) * p.columns + first + c];
            dot[j] += code * input;
            total[j] += input;
          }
        }
      }
    }
    for (int r = 0; r < p.sets; ++r) {
      const int at = ((r * tiles + tile) * p.spans + s) * values + row, j = inputs > 1 ? r : 0;
      const float zero = p.has_zeros != 0 ? float(parameters[at + kTileRows]) : zeros[r];
      sum[r] += float(parameters[at]) * (dot[j] - zero * total[j]);
    }
  }

  for (int r = 0; r < p.sets; ++r) {
    partial[part * kTileRows + row] = sum[r];
    threadgroup_barrier(mem_flags::mem_threadgroup);
    const int o = tile * kTileRows + row;
    if (part == 0 && o < p.rows) {
      float all = 0;
      for (int i = 0; i < kParts; ++i) all += partial[i * kTileRows + row];
      y[(r * p.tokens + token) * p.rows + o] = all;
    }
    threadgroup_barrier(mem_flags::mem_threadgroup);
  }
}

typedef decltype(refrain_replicas<2, half>) refrain_replicas_half;
typedef decltype(refrain_replicas<2, float>) refrain_replicas_float;

template [[host_name("refrain_replicas_1_half")]] kernel refrain_replicas_half refrain_replicas<1, half>;
template [[host_name("refrain_replicas_2_half")]] kernel refrain_replicas_half refrain_replicas<2, half>;
template [[host_name("refrain_replicas_3_half")]] kernel refrain_replicas_half refrain_replicas<3, half>;
template [[host_name("refrain_replicas_4_half")]] kernel refrain_replicas_half refrain_replicas<4, half>;
template [[host_name("refrain_replicas_8_half")]] kernel refrain_replicas_half refrain_replicas<8, half>;
template [[host_name("refrain_replicas_1_float")]] kernel refrain_replicas_float refrain_replicas<1, float>;
template [[host_name("refrain_replicas_2_float")]] kernel refrain_replicas_float refrain_replicas<2, float>;
template [[host_name("refrain_replicas_3_float")]] kernel refrain_replicas_float refrain_replicas<3, float>;
template [[host_name("refrain_replicas_4_float")]] kernel refrain_replicas_float refrain_replicas<4, float>;
template [[host_name("refrain_replicas_8_float")]] kernel refrain_replicas_float refrain_replicas<8, float>;
