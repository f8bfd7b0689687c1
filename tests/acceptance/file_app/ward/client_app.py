"""The nodes."""

import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import DataLoader

from fedunlearn.flower import unlearnable
from ward.task import Net, load_data

app = ClientApp()
forgetting = unlearnable(
    app,
    model=Net,
    loss=binary_cross_entropy_with_logits,
    data=load_data,
)


@app.train()
def train(message: Message, context: Context) -> Message:
    model = Net()
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    dataset, _ = load_data(context)
    loader = DataLoader(
        forgetting.kept(context, dataset),
        batch_size=context.run_config["batch-size"],
        shuffle=True,
        drop_last=True,
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    model.train()
    for _ in range(2):
        for inputs, targets in loader:
            optimizer.zero_grad()
            binary_cross_entropy_with_logits(model(inputs), targets).backward()
            optimizer.step()
    content = RecordDict(
        {
            "arrays": ArrayRecord(model.state_dict()),
            "metrics": MetricRecord({"num-examples": len(loader.dataset)}),
        }
    )
    return Message(content, reply_to=message)
