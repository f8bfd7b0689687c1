"""What every node runs."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from texts.task import (
    arrays_of,
    build_model,
    evaluate_model,
    load_arrays,
    load_data,
    train_model,
)

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train adapters and head on the node's own texts."""
    config = context.run_config
    model = build_model(context)
    load_arrays(model, message.content["arrays"].to_torch_state_dict())
    loader, _ = load_data(context)
    rate = float(config["learning-rate"])
    loss = train_model(model, loader, int(config["local-epochs"]), rate)
    metrics = MetricRecord({"train-loss": loss, "num-examples": len(loader.dataset)})
    content = RecordDict({"arrays": ArrayRecord(arrays_of(model)), "metrics": metrics})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate on the texts that the node holds out of training."""
    model = build_model(context)
    load_arrays(model, message.content["arrays"].to_torch_state_dict())
    _, loader = load_data(context)
    loss, accuracy = evaluate_model(model, loader)
    metrics = {"loss": loss, "accuracy": accuracy, "num-examples": len(loader.dataset)}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)
