"""What every node runs."""

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch.utils.data import DataLoader

from images.task import Net, evaluate_model, load_data, train_model

app = ClientApp()


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train the model on the node's own examples."""
    config = context.run_config
    model = Net()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    dataset, _ = load_data(context)
    loader = DataLoader(dataset, batch_size=int(config["batch-size"]), shuffle=True)
    loss = train_model(
        model,
        loader,
        int(config["local-epochs"]),
        float(message.content["config"]["learning-rate"]),
        bool(config["flip"]),
    )
    metrics = MetricRecord({"train-loss": loss, "num-examples": len(loader.dataset)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the model on what the node holds out of training."""
    model = Net()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    _, held_out = load_data(context)
    loader = DataLoader(held_out, batch_size=256)
    loss, accuracy = evaluate_model(model, loader)
    metrics = {"loss": loss, "accuracy": accuracy, "num-examples": len(loader.dataset)}
    return Message(RecordDict({"metrics": MetricRecord(metrics)}), reply_to=message)
