{{- define "finetune.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "finetune.selector" -}}
app.kubernetes.io/name: finetune-operator
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "finetune.labels" -}}
{{ include "finetune.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "finetune.serviceAccount" -}}
{{- if .Values.serviceAccount.create }}{{ .Values.serviceAccount.name | default (include "finetune.name" .) }}
{{- else }}{{ required "serviceAccount.create is false: set serviceAccount.name to an existing service account" .Values.serviceAccount.name }}
{{- end }}
{{- end }}

{{/* Reference of an image. Argument: (list image-values root). */}}
{{- define "finetune.image" -}}
{{- $image := index . 0 }}
{{- if $image.digest }}{{ $image.repository }}@{{ $image.digest }}
{{- else }}{{ $image.repository }}:{{ $image.tag | default (index . 1).Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* settings.json. finetune_operator.settings defines its fields. */}}
{{- define "finetune.settings" -}}
{{- $trainer := dict
      "image" (include "finetune.image" (list .Values.trainer.image .))
      "imagePullPolicy" .Values.trainer.image.pullPolicy
      "gpuResource" .Values.trainer.gpuResource
      "copiedLabels" .Values.trainer.copiedLabels
      "codeExecution" .Values.trainer.codeExecution
      "stages" .Values.trainer.stages
}}
{{- with .Values.trainer.serviceAccountName }}{{ $_ := set $trainer "serviceAccountName" . }}{{ end }}
{{- if .Values.trainer.caBundle.configMap }}{{ $_ := set $trainer "caBundle" .Values.trainer.caBundle }}{{ end }}
{{- $secrets := list }}
{{- range .Values.trainer.imagePullSecrets }}{{ $secrets = append $secrets .name }}{{ end }}
{{- $_ := set $trainer "imagePullSecrets" $secrets }}
{{- dict
      "trainer" $trainer
      "namespaces" .Values.namespaces
      "logLevel" .Values.logLevel
      "progressSeconds" .Values.progressSeconds
    | toPrettyJson }}
{{- end }}
