// How two published protocols cut a text into windows and which positions they score. Both tokenize the text as one
// stream, cut it into non-overlapping windows of `seq_len` tokens and drop the tail that does not fill a window; each
// window is run on its own. Position t of a window predicts its token t+1.
// - `gptq` (GPTQ-style scripts; Frantar et al. 2022, arXiv 2210.17323): positions 0 … T-2 are scored.
// - `llama.cpp` (its perplexity tool): positions T/2 … T-2 are scored, rounded down: 255 of a window of 512. The text
//   must fill two windows.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/text/corpus.h"
#include "core/text/tokenizer.h"

namespace core {

inline constexpr const char* kGptq = "gptq";
inline constexpr const char* kLlamaCpp = "llama.cpp";

// Which windows are taken of a text that has more than are asked for (where a published measurement of it stops
// earlier, of that part).
inline constexpr const char* kFirst = "first";
inline constexpr const char* kSpread = "spread";  // evenly: window ⌊n M / N⌋ of M, for n < N

struct WindowOptions {
  std::string protocol = kGptq;
  int64_t seq_len = 2048;
  std::string bos = "auto";  // none | once | window | auto, see resolve_bos
  int64_t windows = 0;       // at most this many; 0: all
  std::string windows_from = kFirst;
  int64_t embedding_rows = 0;  // rows of the model's embedding: ids at or above are refused; 0: not checked
};

// Token windows of one corpus. Axes: N windows, T = seq_len tokens.
struct Windows {
  std::string corpus;                 // name
  std::string protocol;               // gptq | llama.cpp
  std::string bos;                    // resolved: none | once | window
  int64_t seq_len = 0;                // T
  int64_t count = 0;                  // N
  std::string windows_from = kFirst;  // kSpread: spread over more than these
  int64_t first = 0;                  // positions first … T-2 are scored
  std::vector<int32_t> ids;           // [N, T], row-major, as the model sees them
  std::string token_hash;             // of ids as little-endian int32: equal hashes, equal input

  std::span<const int32_t> window(int64_t n) const;  // [T]
  int64_t scored_per_window() const { return seq_len - 1 - first; }
  int64_t scored() const { return count * scored_per_window(); }  // positions scored in all windows together
};

// The meaning of `auto` for this tokenizer. If it begins a text with BOS (Tokenizer::adds_bos): `once` under gptq,
// `window` under llama.cpp (what the published scripts do), else `none`.
// none: nothing is added. once: one BOS before the text. window: the first token of each window is overwritten by BOS
// (it is never scored); llama.cpp tokenizes the text with BOS before that, so its first window loses no token.
// Throws UserError on any other value, and when BOS is wanted but the tokenizer has none.
std::string resolve_bos(const std::string& bos, const std::string& protocol, const Tokenizer& tokenizer);

// Tokenizes and cuts. Throws UserError when the corpus is too short for the protocol, when seq_len leaves nothing to
// score, or when an id is beyond the embedding.
Windows make_windows(const Corpus& corpus, const Tokenizer& tokenizer, const WindowOptions& options);
// The same for a text whose `ids` are known: tokenizer.encode(corpus.text). The text itself is not looked at.
Windows make_windows(const Corpus& corpus, std::vector<int32_t> ids, const Tokenizer& tokenizer,
                     const WindowOptions& options);

// Throws UserError when the embedding has no row for an id. corpus: what the message calls the text.
void require_in_embedding(const std::string& corpus, std::span<const int32_t> ids, int64_t embedding_rows);

// Hash of token ids (as little-endian int32), for results and cache keys.
std::string token_hash(std::span<const int32_t> ids);

}  // namespace core
