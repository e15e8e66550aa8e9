// A measure is one thing that is found out about a model, under measure.<name>: its options, the texts that it reads,
// what it finds, and how that is shown, averaged over seeds and compared. Adding one is one file in measure/, which
// defines make_<name>(), and one line in measures.cpp; help, documents, results.json, tables, means of seeds,
// --compare, caches and stale runs follow from it.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/config/keys.h"
#include "core/text/corpus.h"
#include "core/text/tokenizer.h"
#include "core/walk.h"
#include "experiments/json.h"
#include "experiments/measure/bill.h"

namespace experiments {

// One number of results.json as tables show it.
struct Column {
  enum class Unit {
    plain,
    percent,  // the number × 100
    change,   // relative to the same number of the full-precision model, in percent
  };
  std::string heading;
  std::string path;  // fields and indices: "contexts/0/tokens_per_s"
  int digits = 4;    // behind the point
  Unit unit = Unit::plain;
  bool less_is_better = true;
  bool optional = false;          // left out of a table in which no run has the field
  double scale = 1;               // 1e-6 shows bytes as megabytes
  std::string spread = {};        // path of the standard deviation that stands behind the number; empty: none
  std::string deviation_of = {};  // in the mean of several seeds: the standard deviation of the number at this path
  bool is_distance = false;       // KL divergence from full precision, which results/kl_curve.h exchanges into bits
};

// A table of its own for a list inside of what was found: latency with every context. No columns: there is none.
struct DetailTable {
  std::string list;             // path of the list
  std::vector<Column> columns;  // paths inside of an item; with a leading /: in all that was found
};

// Quantities that are known of every window, document or prompt of a text, so that two runs can be compared in pairs.
struct ItemQuantity {
  std::string column;  // of the file: the sum over the item's tokens; empty where it was not measured
  std::string name;    // "NLL"
  bool less_is_better = true;
  std::string exponential = {};  // what exp of its mean is called: "ppl"; empty: nothing
  bool is_share = false;         // 1 or 0 of an item: compared by McNemar's test too
};
struct ItemFile {
  std::string name;                      // "windows.csv"; empty: nothing is compared
  std::vector<std::string> columns;      // behind the first one, which says which model an item was measured on
  std::string count, tokens;             // fields of results.json: number of items, and of tokens in all of them
  std::vector<ItemQuantity> quantities;  // the first one decides comparisons of replicas with their controls
  std::string item = {};    // neighbours that are equal up to this column are one item's; empty: each row is one
  std::string answer = {};  // column whose sum over an item's rows is its answer; empty: it has none
};

// The texts of one model as token ids, each tokenized once however many runs read it.
class Texts {
 public:
  virtual ~Texts() = default;
  virtual const core::Shape& shape() const = 0;
  virtual const core::Tokenizer& tokenizer() const = 0;
  virtual const std::string& model_directory() const = 0;                      // for messages
  virtual const std::vector<int32_t>& tokens(const core::Corpus& corpus) = 0;  // all of a text, without BOS
};

// Keys of `measure` that hold for all measures.
struct MeasureSettings {
  int64_t batch_tokens = 1024;
  bool kl = true;
  bool noise_floor = false;
};

// What a measurement has found of one model.
struct Found {
  Json values;                                       // its part of results.json
  std::vector<std::vector<std::string>> items = {};  // rows of its ItemFile
  std::vector<std::string> log = {};                 // lines to print at the end of a run
  std::string log_file = {};                         // text for log.txt alone
};

// What the same measurement found of the full-precision model, and the files that it kept.
struct OfFullPrecision {
  Json values;
  std::function<std::string(const std::string& name)> file;  // path of a file that was kept
  core::Weights weights;                                     // of the full-precision model
};

// A model that can be run through its blocks.
struct Runnable {
  core::Model& model;
  core::BlockSource& source;
};

// The model that is measured. Its embedding, last norm and head are loaded; where the measure decodes token by token,
// its blocks too.
struct Subject {
  core::Model& model;
  core::BlockSource& source;
  const MeasureSettings& settings;
  uint64_t seed = 0;
  at::ScalarType dtype = at::kFloat;  // of the computation
  bool quiet = false;
  std::string progress = {};  // folder from which an interrupted measurement goes on; empty: it begins anew
  // Findings of the full-precision model; null while that one is measured, or where there is none.
  const OfFullPrecision* full = nullptr;
  // Path at which the full-precision model keeps a file for models that are measured beside it; empty for those.
  std::function<std::string(const std::string& name)> keep = {};
  // Opens the same model once more, with inputs in floats; empty where the runtime does not round them.
  std::function<Runnable()> float_inputs = {};
  const Bill* bill = nullptr;  // null for the full-precision model
  int64_t file_bytes = 0;      // size of the tensor files
};

// A measurement whose texts are tokenized.
struct Prepared {
  std::string token_hash = {};  // of all that it reads; empty: no text
  std::function<Found(const Subject&)> run;
};

// The options of one measurement are its keys.
class Measure : public core::Section {
 public:
  virtual int version() const = 0;                // bumped by hand when the numbers change
  virtual bool decodes() const { return false; }  // whether it generates tokens: all blocks are then kept in memory
  virtual bool draws() const { return false; }    // whether the seed decides anything
  virtual bool measures_full_precision() const { return true; }  // whether the full-precision model is measured too
  // Reads the texts and checks all that can be wrong before a tensor is read. Errors: UserError.
  virtual Prepared prepare(Texts& texts) const = 0;

  virtual std::vector<Column> columns() const = 0;  // of the table of a sweep
  virtual DetailTable details() const { return {}; }
  virtual ItemFile items() const { return {}; }
  // Where there are several: what tells them apart in tables, "wikitext2/test (gptq 512)".
  virtual std::string label(const Json& /*values*/) const { return {}; }
  // Fields of results.json that are equal where two runs measured the same.
  virtual std::vector<std::string> identity() const { return {}; }
};

}  // namespace experiments
