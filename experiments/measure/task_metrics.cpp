#include "experiments/measure/task_metrics.h"

#include <algorithm>
#include <cmath>

namespace experiments {

Chosen chosen(const TaskItems::Item& item, const std::vector<Likelihood>& found) {
  const auto best = [&](const auto& length) {
    int64_t winner = 0;
    double most = 0;
    for (size_t i = 0; i < item.choices.size(); ++i) {
      const double value = found[item.choices[i].request].sum / static_cast<double>(length(item.choices[i]));
      if (i > 0 && !(value > most)) continue;
      winner = static_cast<int64_t>(i);
      most = value;
    }
    return winner;
  };
  return {.plain = best([](const auto&) { return int64_t{1}; }),
          .by_character = best([](const auto& choice) { return choice.characters; }),
          .by_byte = best([](const auto& choice) { return choice.bytes; })};
}

namespace {

// Whether an item is answered rightly. Where there is one choice: whether it is what the model would write.
struct Answered {
  bool plain, by_character, by_byte;
};

Answered answered(const TaskItems::Item& item, const std::vector<Likelihood>& found) {
  if (item.choices.size() == 1) {
    const bool greedy = found[item.choices.front().request].greedy;
    return {greedy, greedy, greedy};
  }
  const Chosen c = chosen(item, found);
  return {c.plain == item.gold, c.by_character == item.gold, c.by_byte == item.gold};
}

double likelihood_of(const TaskItems::Item& item, const std::vector<Likelihood>& found) {
  double sum = 0;
  for (const auto& choice : item.choices) sum += found[choice.request].sum;
  return sum;
}

// Puts the mean and its standard error, the standard deviation of the sample / sqrt(n).
void put_mean(Json& json, const std::string& name, const std::vector<double>& values) {
  const auto n = static_cast<double>(values.size());
  double mean = 0, squares = 0;
  for (const double value : values) mean += value / n;
  for (const double value : values) squares += std::pow(value - mean, 2);
  json[name] = mean;
  json[name + "_stderr"] = n > 1 ? std::sqrt(squares / (n - 1) / n) : 0.0;
}

// Puts exp of Σ −ln p / Σ units, and its standard error over items by the delta method.
void put_perplexity(Json& json, const std::string& name, const std::vector<double>& losses,
                    const std::vector<double>& units) {
  const auto n = static_cast<double>(losses.size());
  double loss = 0, all = 0, squares = 0;
  for (const double one : losses) loss += one;
  for (const double one : units) all += one;
  for (size_t i = 0; i < losses.size(); ++i) squares += std::pow(losses[i] - loss / all * units[i], 2);
  json[name] = std::exp(loss / all);
  json[name + "_stderr"] = n > 1 ? std::exp(loss / all) * std::sqrt(squares * n / (n - 1)) / all : 0.0;
}

}  // namespace

Json task_metrics(const TaskItems& items, const std::vector<Likelihood>& found) {
  Json json = Json::object();
  std::vector<double> acc, acc_norm, acc_bytes, losses, ones, words, bytes;
  for (const TaskItems::Item& item : items.items) {
    losses.push_back(-likelihood_of(item, found));
    ones.push_back(1);
    words.push_back(static_cast<double>(item.words));
    bytes.push_back(static_cast<double>(item.bytes));
    const Answered right = answered(item, found);
    acc.push_back(right.plain ? 1 : 0);
    acc_norm.push_back(right.by_character ? 1 : 0);
    acc_bytes.push_back(right.by_byte ? 1 : 0);
  }
  const Task& task = *items.task;
  if (task.has(kAcc)) put_mean(json, kAcc, acc);
  if (task.has(kAccNorm)) {
    put_mean(json, kAccNorm, acc_norm);
    put_mean(json, kAccBytes, acc_bytes);
  }
  if (task.has(kTaskPerplexity)) put_perplexity(json, kTaskPerplexity, losses, ones);
  if (task.has(kWordPerplexity)) put_perplexity(json, kWordPerplexity, losses, words);
  if (task.has(kBytePerplexity)) {
    put_perplexity(json, kBytePerplexity, losses, bytes);
    json[kBitsPerByte] = std::log2(json[kBytePerplexity].get<double>());
    json[std::string(kBitsPerByte) + "_stderr"] =
        json[std::string(kBytePerplexity) + "_stderr"].get<double>() / json[kBytePerplexity].get<double>() / M_LN2;
  }
  return json;
}

}  // namespace experiments
